"""One route for one query: what is known of a task (`model`), what its routes promise (`promise`; by a model alone,
`offer`), which one is taken (`choose`)."""
