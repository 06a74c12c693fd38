"""GANomaly, approach `ganomaly`: encoder, decoder, encoder."""
