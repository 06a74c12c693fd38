"""The classifier of normal against anomalous, approach `supervised`."""
