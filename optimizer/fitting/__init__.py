"""Small fits that heads and gate share, and how they are judged."""
