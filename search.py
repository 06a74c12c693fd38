"""Searches for better options; `python search.py` is the same as `anomaly-tf search`."""

from anomaly_tf.cli import run

if __name__ == "__main__":
    run("search")
