"""A detector in scikit-learn: in a Pipeline, cross-validated.

The images are scikit-learn's handwritten digits (8x8, bundled with it): zeros are normal, ones are
anomalies. The labels are scikit-learn's: 1 normal, -1 anomaly.

    python examples/sklearn_pipeline.py

Prints the AUROC of each fold and their mean.
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

import anomaly_tf


def to_images(rows: np.ndarray) -> np.ndarray:
    """Rows of 64 grey levels from 0 to 16 as images uint8 `(N, 8, 8)`."""
    return (rows.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)


def main() -> None:
    """Cross-validates the pipeline."""
    rows, digits = load_digits(return_X_y=True)
    rows, digits = rows[digits < 2], digits[digits < 2]
    labels = np.where(digits == 0, 1, -1)

    pipeline = Pipeline(
        [
            ("images", FunctionTransformer(to_images)),
            ("detector", anomaly_tf.AnomalyDetector("vae")),
        ]
    )
    pipeline.set_params(detector__training__epochs=5)
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    # `vae` learns from the normal images of each training part; scoring needs both labels.
    scores = cross_val_score(pipeline, rows, labels, cv=folds, scoring="roc_auc")
    print(f"AUROC of each fold: {' '.join(f'{score:.3f}' for score in scores)}")
    print(f"mean {scores.mean():.3f}")


if __name__ == "__main__":
    main()
