"""What a task is learnt from: recorded answers of every expert (`answers`, `texts`), replayed and judged."""
