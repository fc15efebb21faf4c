"""One route for one query: what is known of its task (`model`), what routes promise (`offer`), which one (`choose`)."""
