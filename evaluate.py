"""Scores the test set of a run; `python evaluate.py` is the same as `anomaly-tf evaluate`."""

from anomaly_tf.cli import run

if __name__ == "__main__":
    run("evaluate")
