"""Gives a trained run another false-alarm rate, without training, and saves it as a new run.

    python examples/rethreshold.py --run runs/mine --output runs/mine-strict --rate 0.02
    python examples/rethreshold.py

Without --run it trains a short model on the zeros among scikit-learn's handwritten digits, in a
temporary folder. The threshold comes from the scores of normal validation images, which the run
keeps; n of them can promise rates from 1 / (n + 1).

Prints both thresholds, and the share of those validation images that each makes an alarm.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import anomaly_tf


def main() -> None:
    """Loads a run, sets its threshold anew and saves it elsewhere."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, help="run directory, or an exported detector")
    parser.add_argument("--output", type=Path, help="where to save the new one")
    parser.add_argument("--rate", type=float, default=0.1, help="largest false-alarm rate")
    options = parser.parse_args()
    if options.run and not options.output:
        parser.error("--run needs --output")
    with tempfile.TemporaryDirectory() as temporary:
        run, output = options.run, options.output or Path(temporary, "new")
        if run is None:
            run, digits = Path(temporary, "run"), load_digits()
            zeros = (digits.images[digits.target == 0] * 255 / 16).astype(np.uint8)
            training = {"training__epochs": 5, "sampling__validation_fraction": 0.33}
            anomaly_tf.train(zeros, approach="vae", run_dir=run, verbose=0, **training)

        detector = anomaly_tf.Detector.load(run)
        show(detector)
        detector.set_false_alarm_rate(options.rate)
        detector.save(output)
        show(anomaly_tf.Detector.load(output))


def show(detector: anomaly_tf.Detector) -> None:
    """Prints the threshold and what it does to the normal validation images."""
    normal = detector.calibration_scores
    alarms = f"{np.sum(normal >= detector.threshold)} of {len(normal)} normal validation images"
    print(f"{detector.threshold_method}: threshold {detector.threshold:.4f}, alarms {alarms}")


if __name__ == "__main__":
    main()
