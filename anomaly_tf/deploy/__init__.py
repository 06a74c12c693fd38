"""Trained detectors and their exports.

`Detector.load` is set here, because the base class does not import its subclasses.
"""

from anomaly_tf.deploy.detector import Detector
from anomaly_tf.deploy.loading import load_detector

__all__ = ["Detector"]

Detector.load = staticmethod(load_detector)
