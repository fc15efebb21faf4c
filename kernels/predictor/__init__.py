"""Which groups of a convolution an image needs: pool, softmax, one or two linear maps, threshold."""
