"""Our language models learn their user: scales and shifts after each block, and what is added to the scores."""
