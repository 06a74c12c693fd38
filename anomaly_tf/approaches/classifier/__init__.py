"""The convolutional classifier, approach `cnn`."""
