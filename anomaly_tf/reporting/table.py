"""The table of an evaluation for the terminal."""

from __future__ import annotations

from typing import Any

from anomaly_tf.script import printable

# Longest name for which the values are aligned in one column.
MAX_WIDTH = 40
Rows = list[tuple[str, str]]


def table(metrics: dict[str, Any]) -> str:
    """The table of an evaluation, with the most important metrics first."""
    no_anomalies = metrics["auroc"] is None and metrics["protocol"] != "classification"
    rows = [
        *_accuracies(metrics),
        *(
            [("AUROC", "n/a (no anomalies in the test set)")]
            if no_anomalies
            else _detection(metrics)
        ),
        *_rates(metrics),
        *_localisation(metrics),
        *(_normal_scores(metrics) if no_anomalies else ()),
        *_by_class(metrics),
    ]
    # Names of classes and files may contain line breaks and control characters; they are escaped
    # before the width is computed.
    rows = [(printable(name), value) for name, value in rows]
    width = min(max(len(name) for name, _ in rows), MAX_WIDTH)
    normal = (
        "all classes normal"
        if metrics["normal_class"] is None
        else f"normal class {_listed(metrics['normal_class_name'])}"
    )
    head = (
        f"{metrics['approach']}, {metrics['protocol']}, {metrics['dataset']}, {normal}, "
        f"{metrics['n_test']} test images"
    )
    lines = [head, *(f"  {name:<{width}}  {value}" for name, value in rows)]
    return "\n".join(map(printable, lines))


def _accuracies(metrics: dict[str, Any]) -> Rows:
    if "accuracy" not in metrics:
        return []
    corrupted = metrics.get("accuracy_by_corruption", {})
    return [
        ("accuracy", f"{metrics['accuracy']:.2%}"),
        *((f"accuracy with {name}", f"{value:.2%}") for name, value in corrupted.items()),
    ]


def _detection(metrics: dict[str, Any]) -> Rows:
    if metrics["auroc"] is None:
        return []
    spread = "too few images for a confidence interval"
    if metrics["auroc_ci95"]:
        spread = "95 % CI {:.4f} to {:.4f}".format(*metrics["auroc_ci95"])
    if metrics["protocol"] == "corruption":
        spread += "; synthetic anomalies"
    rows = [
        ("AUROC", f"{metrics['auroc']:.4f}  ({spread})"),
        ("average precision", f"{metrics['average_precision']:.4f}"),
        ("false alarms at 95 % found", f"{metrics['fpr_at_95_tpr']:.1%}"),
    ]
    if "auroc_seen" in metrics:
        rows.append(("AUROC, seen classes", f"{metrics['auroc_seen']:.4f}"))
        rows.append(("AUROC, unseen classes", f"{metrics['auroc_unseen']:.4f}"))
    return rows


def _rates(metrics: dict[str, Any]) -> Rows:
    rows = [
        ("threshold", f"{metrics['threshold']:.4g}  ({metrics['threshold_method']})"),
        ("false-alarm rate", f"{metrics['test_false_alarm_rate']:.1%}"),
    ]
    if metrics["test_detection_rate"] is not None:
        rows.append(("detection rate", f"{metrics['test_detection_rate']:.1%}"))
    return rows


def _localisation(metrics: dict[str, Any]) -> Rows:
    if metrics.get("n_masks") == 0:
        return [("pixel AUROC", "n/a (no mask marks a part of a test image)")]
    if "pixel_auroc" not in metrics:
        return []
    return [
        ("pixel AUROC", f"{metrics['pixel_auroc']:.4f}  ({metrics['n_masks']} masks)"),
        ("per-region overlap", f"{metrics['aupro']:.4f}  (area up to 30 % false positives)"),
    ]


def _normal_scores(metrics: dict[str, Any]) -> Rows:
    spread = metrics["normal_scores"]
    words = (
        f"median {spread['median']:.4g}, 95th percentile {spread['percentile_95']:.4g}, "
        f"largest {spread['maximum']:.4g}"
    )
    unusual = metrics.get("most_unusual_normal", [])[:5]
    return [
        ("scores of normal images", words),
        *(("most unusual", f"{one['score']:.4g}  {one['file']}") for one in unusual),
    ]


def _by_class(metrics: dict[str, Any]) -> Rows:
    """AUROC against each class, hardest first; for a classifier also precision and recall."""
    hardest = sorted(metrics["auroc_by_class"].items(), key=lambda item: item[1])
    unseen = metrics.get("unseen_classes", ())
    rows = [
        (f"AUROC against {name}{' (unseen)' if name in unseen else ''}", f"{value:.4f}")
        for name, value in hardest
    ]
    if metrics["protocol"] == "classification":
        report = metrics["classification_report"].items()
        rows += [
            (f"precision, recall of {name}", f"{part['precision']:.3f}, {part['recall']:.3f}")
            for name, part in report
            if isinstance(part, dict) and not name.endswith(" avg")
        ]
    return rows


def _listed(names: str | list[str]) -> str:
    return names if isinstance(names, str) else ", ".join(names)
