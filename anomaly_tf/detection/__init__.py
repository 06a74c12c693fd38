"""From scores to verdicts and metrics."""
