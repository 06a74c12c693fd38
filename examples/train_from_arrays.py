"""Trains a detector on NumPy arrays and labels, and measures it on images that it has not seen.

The images are scikit-learn's handwritten digits (8x8, bundled with it): zeros are normal, all other
digits are anomalies. With labelled anomalies an approach that learns from both (`sota`) is the
first choice; without, leave out the labels and take `vae` or `autoencoder`.

    python examples/train_from_arrays.py

Prints one line per epoch, then the AUROC, the false-alarm rate and the share of anomalies found on
the test images.
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

import anomaly_tf


def main() -> None:
    """Trains, then scores the test images."""
    digits = load_digits()
    images = (digits.images * 255 / 16).astype(np.uint8)  # (N, 8, 8); detectors take uint8
    labels = (digits.target != 0).astype(int)  # 0 normal, 1 anomaly
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, stratify=labels, random_state=0
    )

    detector = anomaly_tf.train(
        train_images,
        train_labels,
        approach="sota",
        training__epochs=3,
        sampling__validation_fraction=0.3,  # the normal ones among them set the threshold
    )

    scores = detector.score(test_images)  # higher is more anomalous
    alarms = detector.predict(test_images)  # 1 where score >= detector.threshold
    print(f"AUROC {roc_auc_score(test_labels, scores):.3f}")
    print(f"false alarms {alarms[test_labels == 0].mean():.1%}")
    print(f"anomalies found {alarms[test_labels == 1].mean():.1%}")


if __name__ == "__main__":
    main()
