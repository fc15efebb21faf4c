"""One route for one query: what is known of a task (`model`), what routes promise (`promise`), which one (`choose`)."""
