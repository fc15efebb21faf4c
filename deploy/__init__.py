"""Scripts that run the product: the demo, stub generation, example configurations. Nothing imports this folder."""
