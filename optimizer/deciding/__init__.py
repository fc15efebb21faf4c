"""One route for one query: what is known of a task (`model`), what its routes promise (`promise`, by model `offer`), which
one is taken (`choose`)."""
