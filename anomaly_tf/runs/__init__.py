"""Run directories and their files, atomic writing, and checks of untrusted files."""
