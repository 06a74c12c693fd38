"""Figures and tables."""

import logging

# matplotlib's notes on its cache folder and on fonts say nothing about a run.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
