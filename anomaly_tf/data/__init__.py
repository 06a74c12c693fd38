"""Loads images, divides them into sets, and draws batches.

A source (`sources.py`) returns an `ImageDataset`, a protocol (`protocols.py`) divides it into a
`Split` of training, validation and test set, and `pipelines.py` draws training batches.
"""
