"""From the sources of images to batches.

A source (`sources.py`) returns an `ImageDataset`, a protocol (`protocols.py`) divides it into a
`Split` of training, validation and test set, and `pipelines.py` draws training batches.
"""
