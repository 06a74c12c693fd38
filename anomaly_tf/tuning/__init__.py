"""Search over the options of an approach: its space, its trials, and what they cost and gain.

`space.py` reads which values may be tried, `study.py` asks Optuna for the next ones and keeps what
came of them, `search.py` trains, `results.py` says what was found.
"""
