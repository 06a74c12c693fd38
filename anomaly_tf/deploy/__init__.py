"""What leaves the laboratory: a trained detector, and its exports.

`Detector.load` is set here, because the interface knows none of the kinds that can be loaded.
"""

from anomaly_tf.deploy.detector import Detector
from anomaly_tf.deploy.loading import load_detector

__all__ = ["Detector"]

Detector.load = staticmethod(load_detector)
