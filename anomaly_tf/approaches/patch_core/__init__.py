"""PatchCore: distance of patch features to a memory bank of normal ones."""
