"""anomaly_tf: learns from pictures what normal looks like.

The package in the order in which data flows:

- `config`, `command_line`: what a run is made of, and how a user says it
- `data`: sources, protocols (which images are normal or anomaly), tf.data pipelines
- `models`: the approaches, one file each, and their losses
- `training`: the one place that calls `fit`
- `detection`: scores, thresholds, what a batch tells, metrics
- `reporting`: pictures and tables
- `deploy`: `Detector`, what a trained run becomes, and its exports
- `benchmark`, `jobs`: approaches compared, several trainings at a time
- `run_directory`, `metadata`, `files`, `errors`, `script`, `onednn`: what all of them share

Importing it first lets TensorFlow compute with oneDNN on every x86 processor (`onednn.py`).

>>> from anomaly_tf import Detector
>>> detector = Detector.load("runs/sota/first")
>>> detector.score(images), detector.predict(images)
"""

from anomaly_tf.deploy.detector import Detector
from anomaly_tf.onednn import enable_onednn

enable_onednn()

__all__ = ["Detector"]
__version__ = "0.1.0"
