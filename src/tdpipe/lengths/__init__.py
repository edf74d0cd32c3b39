"""How long outputs will be, learned from the outputs of the served model itself."""
