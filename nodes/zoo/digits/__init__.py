"""Handwritten digits: six classifiers between a linear model and a wide convolutional one."""
