"""Dynamic pruning (FTWT): per input, predict which groups of filters will fire, and compute only those."""
