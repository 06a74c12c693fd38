"""What leaves the laboratory: a trained detector."""
