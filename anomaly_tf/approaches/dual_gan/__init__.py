"""The dual-discriminator GAN, approach `sota`."""
