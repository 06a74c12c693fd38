"""Options of approach `patchcore`, a memory bank of patch features; no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from anomaly_tf.config import OnePassConfig, ScoreMap, number
from anomaly_tf.errors import UserError
from anomaly_tf.networks.sizes import FeatureNetworks

DEFAULT_BANK = 1000


@dataclass(frozen=True)
class PatchCoreNetworks(FeatureNetworks):
    """The pretrained network, and the memory bank of normal patches.

    Attributes:
        bank_size: Number of patches in the memory bank. Default: 1000, or as many as there are.
        candidates: Number of patches from which the bank is chosen, drawn at random from all.
    """

    # On drawn cloth of 128x128, seed 1, image AUROC of strides 4 and 8 enlarged to 256: .997; not
    # enlarged .973; with stride 16 .922. Coins, scratches, grass and bricks score above all of 40
    # crops of gravel after 12 crops of training; with stride 16 half of the scratches do. Without
    # mirrored borders 6 of 90 small coins score below the highest of 30 crops after 8, else none.
    strides: tuple[int, ...] = (4, 8)
    enlarge_to: int = number(256, 8, 1024)
    mirror: int = number(32, 0, 256)
    bank_size: int | None = number(None, 1, 100_000)
    candidates: int = number(20_000, 1, 1_000_000)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bank_size is not None and self.bank_size > self.candidates:
            self._refuse(
                "bank_size",
                f"must be at most --networks.candidates, {self.candidates}; got {self.bank_size}",
            )


@dataclass(frozen=True)
class PatchCoreConfig(OnePassConfig):
    """Configuration of approach `patchcore`, a memory bank of patch features.

    Attributes:
        networks: The pretrained network and the memory bank.
    """

    learns_positions: ClassVar[bool] = False
    quantizable: ClassVar[bool] = False
    score_map: ClassVar[ScoreMap] = ScoreMap(
        "distance to the nearest normal patch", "maximum", "maximum", whole_up_to=0
    )

    approach: str = "patchcore"
    networks: PatchCoreNetworks = PatchCoreNetworks()

    def require_images(self, count: int, image_shape: tuple[int, ...]) -> None:
        """Refuses fewer normal images than the bank has patches for; as `OnePassConfig`."""
        size, patches = self.networks.bank_size or 1, self.networks.n_patches(image_shape)
        if size > count * patches:
            raise UserError(
                f"a bank of {size} patches needs {-(-size // patches)} normal training images of "
                f"{patches} patches each; there are {count}; add images or lower "
                f"--networks.bank-size to {count * patches}"
            )
