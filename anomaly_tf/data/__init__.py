"""Where images come from, which set each belongs to, and how they become batches."""
