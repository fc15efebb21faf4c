"""Convolution of each channel by itself, over the groups of 16 channels that are there."""
