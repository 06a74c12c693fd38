"""Trains a detector; `python train.py` is the same as `anomaly-tf train`."""

from anomaly_tf.cli import run

if __name__ == "__main__":
    run("train")
