"""TensorRT and TensorRT-RTX through one adapter: building engines and running them. Needs Python 3.10 and numpy."""
