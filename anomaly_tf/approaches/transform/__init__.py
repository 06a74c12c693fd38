"""The classifier of geometric transformations, approach `transform`."""
