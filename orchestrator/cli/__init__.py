"""The `edgewise` command. One module per verb; heavy imports wait until a verb needs them."""
