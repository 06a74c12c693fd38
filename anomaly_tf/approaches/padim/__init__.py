"""PaDiM: a Gaussian of patch features for each position."""
