"""anomaly_tf: learns from pictures what normal looks like.

The package in the order in which data flows; each folder imports from those below it only:

- `command_line`: what the command lines of the scripts mean
- `benchmark`: approaches compared, cell by cell
- `training`: what a training needs, the one place that calls `fit`, what a run records of it
- `reporting`: the evaluation of a run, pictures and tables
- `deploy`: `Detector`, what runs it, and its exports
- `detection`: scores, thresholds, verdicts of a batch, metrics, localisation
- `data`: sources, protocols (which images are normal or anomaly), tf.data pipelines
- `approaches`: one folder each, and the registry
- `networks`: what two or more approaches share
- `config`: options that belong to no single approach, and how they are read
- `runs`: what lies in a run directory, `detector.json`, files written whole or not at all, what may
  be written over, paths
- `script`, `jobs`, `onednn`, `errors`, `version`: what all of them share

Importing it first lets TensorFlow compute with oneDNN on every x86 processor (`onednn.py`).

>>> from anomaly_tf import Detector
>>> detector = Detector.load("runs/sota/first")
>>> detector.score(images), detector.predict(images)
"""

from anomaly_tf.deploy.detector import Detector
from anomaly_tf.onednn import enable_onednn
from anomaly_tf.version import VERSION

enable_onednn()

__all__ = ["Detector"]
__version__ = VERSION
