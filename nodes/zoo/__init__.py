"""The experts that ship with a node: trained weights, what they know, and the recipe that made them."""
