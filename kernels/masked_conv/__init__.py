"""Convolution of one image that computes only the active groups of outputs from the active inputs."""
