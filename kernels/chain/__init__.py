"""A chain of masked convolutions that decides for each image, layer by layer, what to compute."""
