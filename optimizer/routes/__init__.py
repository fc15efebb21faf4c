"""Routes over experts: what they are (`route`), and how several answers become one (`fusion`, `texts`)."""
