"""Small language models that ship with a node: vocabulary, network, recipe, export, cards and weights."""
