"""anomaly_tf: learns from images what normal looks like.

The package in the order in which data flows; each folder imports from those below it only:

- `cli`: the commands `train`, `evaluate`, `report`, `export`, `predict`, `search`,
  `benchmark`
- `tuning`: search over the options of an approach
- `command_line`: the parsing that the commands share
- `estimator`: `AnomalyDetector`, a scikit-learn estimator
- `api`: `train`, from data to a detector
- `benchmark`: approaches compared, cell by cell
- `commands`: commands in processes of their own, here or on a worker of a cluster
- `reporting`: the evaluation of a run, plots, tables and pages
- `training`: what a training needs, the one place that calls `fit`, what a run records of it
- `deploy`: `Detector`, what runs it, and its exports
- `choice`: which approach is the first choice for a data set
- `detection`: scores, thresholds, verdicts of a batch, metrics, localisation
- `data`: sources, protocols (which images are normal or anomaly), tf.data pipelines
- `approaches`: one folder each, the registry, and their configurations
- `networks`: what two or more approaches share
- `config`: options that belong to no single approach, and how they are read
- `runs`: what lies in a run directory, `detector.json`, files written whole or not at all, what may
  be written over, paths
- `jobs`, `cluster`: independent pieces of work on threads, processes or a cluster
- `script`, `program`, `onednn`, `reachability`, `errors`, `version`: what all of them share

Importing it lets TensorFlow compute with oneDNN on every x86 processor (`onednn.py`); TensorFlow
itself is imported when it is needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from anomaly_tf.onednn import enable_onednn
from anomaly_tf.version import VERSION

if TYPE_CHECKING:
    from anomaly_tf.api import train
    from anomaly_tf.deploy import Detector
    from anomaly_tf.errors import UserError
    from anomaly_tf.estimator import AnomalyDetector

enable_onednn()

__all__ = ["AnomalyDetector", "Detector", "UserError", "train"]
__version__ = VERSION

# Where each public name lies. Loaded when it is asked for, so that the commands answer at once.
_PUBLIC = {
    "AnomalyDetector": "anomaly_tf.estimator",
    "Detector": "anomaly_tf.deploy",
    "UserError": "anomaly_tf.errors",
    "train": "anomaly_tf.api",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'anomaly_tf' has no attribute '{name}'")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
