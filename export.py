"""Exports a run; `python export.py` is the same as `anomaly-tf export`."""

from anomaly_tf.cli import run

if __name__ == "__main__":
    run("export")
