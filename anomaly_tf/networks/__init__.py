"""What two or more approaches share: layers, networks, losses, detectors."""
