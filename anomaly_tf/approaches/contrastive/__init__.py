"""The contrastive autoencoder, approach `contrastive`."""
