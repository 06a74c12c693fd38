"""Compares approaches; `python benchmark.py` is the same as `anomaly-tf benchmark`."""

from anomaly_tf.cli import run

if __name__ == "__main__":
    run("benchmark")
