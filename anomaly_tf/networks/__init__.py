"""Layers, networks, losses and detectors that two or more approaches share."""
