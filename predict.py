"""Scores image files; `python predict.py` is the same as `anomaly-tf predict`."""

from anomaly_tf.cli import run

if __name__ == "__main__":
    run("predict")
