"""From batches to a run directory."""
