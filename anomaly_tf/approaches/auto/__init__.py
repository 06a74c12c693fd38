"""Options of `--approach auto`, which is replaced by an approach when the data is known."""
