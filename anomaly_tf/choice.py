"""Recommends an approach for a data set, with the reason.

Figures are AUROC on the test set of Fashion-MNIST: means over its ten classes, from README.md, or
of T-shirts against the rest, where 500 normal images were trained on and 2,500 tested:

| `sota` with 10, 30, 100 labelled anomalies of nine kinds | .894, .943, .967 to .976 |
| `transform` with 180 and 900 normal images only | .959 to .962 |
| `vae`, `autoencoder` with these | .924 to .927, .902 to .921 |

On photographs of solar cells (ELPV, monocrystalline, 411 good ones, no more than a few minutes):
at 64x64 `vae` .890, `autoencoder` .854; at 32x32 `transform` .829, `vae` .804, `sota` with 30
labelled anomalies .833; at 128x128 `padim` .958, `patchcore` .948. On drawn cloth `patchcore` .998,
`padim` .959.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from anomaly_tf.approaches import options_of
from anomaly_tf.config import ALL_CLASSES_NORMAL, Config, Protocol
from anomaly_tf.data.advice import Findings

# Labelled anomalies of small pictures from which on `sota` is ahead of `transform`.
MIN_LABELLED_SMALL = 100
# Labelled anomalies from which on approaches are compared, and from which on `sota` is among them.
MIN_COMPARED, MIN_LABELLED = 10, 30
# What to expect of an approach where another is the first choice, by the two.
FEW_LABELLED = (
    "few labelled anomalies are memorised: on T-shirts (Fashion-MNIST) sota has an AUROC of 0.894 "
    "with 10, 0.943 with 30 and 0.967 with 100, transform 0.959 with none"
)
OTHER_KINDS = (
    "kinds of anomalies that are not in training are found less well (mean AUROC 0.95 on "
    "Fashion-MNIST, of sota 0.969)"
)
NO_PHOTOGRAPHS = (
    "{} begins without knowing any photograph (AUROC on drawn cloth: vae 0.975, patchcore 0.997)"
)
SLOW = "it takes many times longer on large pictures, and shows only roughly where the trouble lies"
AS_A_WHOLE = "{} judges a picture as a whole and misses small defects"
EXPECT = {
    ("autoencoder", "transform"): "mean AUROC on Fashion-MNIST 0.928, of transform 0.955",
    ("vae", "transform"): "mean AUROC on Fashion-MNIST 0.933, of transform 0.955",
    ("ganomaly", "transform"): "AUROC on T-shirts (Fashion-MNIST) 0.925, of transform 0.957",
    ("contrastive", "sota"): OTHER_KINDS,
    ("gan", "sota"): OTHER_KINDS,
    ("supervised", "sota"): OTHER_KINDS,
    **dict.fromkeys((("autoencoder", "padim"), ("vae", "padim")), NO_PHOTOGRAPHS),
    **dict.fromkeys((("autoencoder", "patchcore"), ("vae", "patchcore")), NO_PHOTOGRAPHS),
    **dict.fromkeys((("transform", "padim"), ("transform", "patchcore")), SLOW),
    **dict.fromkeys((("ganomaly", "padim"), ("ganomaly", "patchcore")), AS_A_WHOLE),
    ("patchcore", "padim"): "{} does not know what belongs where",
    ("padim", "patchcore"): "{} expects the same part at the same position of all pictures",
    ("nsa", "padim"): "{} does not know what belongs where",
}


@dataclass(frozen=True)
class Choice:
    """What `--approach auto` trains.

    Attributes:
        candidates: Approaches to compare on validation images, each with its protocol; the first is
            the first choice.
        reason: The reason, in words.
    """

    candidates: tuple[tuple[str, Protocol], ...]
    reason: str


def choose(found: Findings, protocol: Protocol, without_labels: bool = False) -> Choice:
    """The approach for a data set, or several to compare.

    Args:
        found: What was found in the data.
        protocol: imbalance uses labelled anomalies, if there are enough; another one uses none and
            is that of the choice.
        without_labels: Whether only approaches that learn from normal images can be chosen.
    """
    use_labels = protocol == "imbalance"
    first, reason = first_choice(found if use_labels else replace(found, n_anomalies=0))
    if not use_labels or found.n_anomalies < MIN_COMPARED:
        unlabelled: Protocol = "one_class" if use_labels else protocol
        return Choice(((first, unlabelled),), f"{first} ({reason})")
    names = ["transform", "padim"] if found.is_small else ["padim", "patchcore"]
    names += ["sota"] if found.n_anomalies >= MIN_LABELLED and not without_labels else []
    names.sort(key=lambda name: name != first)
    candidates: list[tuple[str, Protocol]] = [
        (name, "imbalance" if "imbalance" in options_of(name).protocols else "one_class")
        for name in names
    ]
    return Choice(
        tuple(candidates),
        f"the best of {', '.join(names)}, each on its validation images ({found.n_anomalies} "
        f"labelled anomalies; without them {first_choice(replace(found, n_anomalies=0))[0]})",
    )


def first_choice(found: Findings) -> tuple[str, str]:
    """The approach to begin with, and why.

    Args:
        found: What was found in the data.

    Returns:
        The approach's name, and the reason in words.
    """
    height, width, _ = found.image_shape
    labelled = f"{found.n_anomalies} labelled anomalies"
    if not found.n_anomalies:
        labelled = "no labelled anomalies"
    if found.is_small:
        if found.n_anomalies >= MIN_LABELLED_SMALL:
            kinds = "1 kind" if found.n_kinds == 1 else f"{found.n_kinds} kinds"
            return "sota", f"{labelled} of {kinds}"
        return "transform", f"small pictures, {height}x{width}, {labelled}"
    alike = "too few pictures to see whether they are aligned"
    if found.alikeness is not None:
        alike = f"{'aligned' if found.is_aligned else 'not aligned'}, {found.alikeness:z.2f}"
    reason = f"{height}x{width} pixels, {alike}, {labelled}"
    return "padim" if found.is_aligned else "patchcore", reason


def describe_choice(config: Config, found: Findings) -> tuple[str, ...]:
    """The first choice, and what to expect of the approach that was chosen instead: one line.

    No line where every class is normal: there the protocol decides what can be learnt.

    Args:
        config: The run's configuration.
        found: What was found in the data.
    """
    if config.protocol in ALL_CLASSES_NORMAL:
        return ()
    first, reason = first_choice(found)
    chosen = config.approach
    if chosen == first:
        return (f"approach: {chosen} is the first choice for this data ({reason})",)
    line = f"approach: {chosen}; the first choice for this data is {first} ({reason})"
    if expected := _expected(config, first, found):
        line += f": {expected}"
    return (line,)


def _expected(config: Config, first: str, found: Findings) -> str:
    learns_labels = config.learns_from == "normal and anomalous images"
    if learns_labels and first != "sota":
        return FEW_LABELLED
    if not learns_labels and first == "sota":
        return f"{config.approach} learns nothing from labelled anomalies"
    return EXPECT.get((config.approach, first), "").format(config.approach)
