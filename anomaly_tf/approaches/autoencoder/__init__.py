"""The dense autoencoder, approach `autoencoder`."""
