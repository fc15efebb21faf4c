"""A sampler that needs no interpreter: C beside its binding. Where it was not built, the one in Python does."""
