"""Running a routed query: attempts on arms, stages, retries, text streams, and what is remembered of each request."""
