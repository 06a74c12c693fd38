"""The evaluation of a run, plots, tables and pages."""

import logging

# matplotlib's notes on its cache folder and on fonts are irrelevant for a run.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
