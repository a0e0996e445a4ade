"""pysr: blind super-resolution of images and video."""
