"""Writes pages of runs; `python report.py` is the same as `anomaly-tf report`."""

from anomaly_tf.cli import run

if __name__ == "__main__":
    run("report")
