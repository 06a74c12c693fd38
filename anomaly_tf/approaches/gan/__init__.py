"""The plain GAN, approach `gan`."""
