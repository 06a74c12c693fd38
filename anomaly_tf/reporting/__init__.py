"""Plots and tables."""

import logging

# matplotlib's notes on its cache folder and on fonts are irrelevant for a run.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
