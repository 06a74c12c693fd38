"""What lies in a run directory, and files that are whole or absent."""
