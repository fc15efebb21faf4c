"""One budget of joules or watts shared among task classes: convex relaxation, shadow prices, one plan per class."""
