"""The convolutional variational autoencoder, approach `vae`."""
