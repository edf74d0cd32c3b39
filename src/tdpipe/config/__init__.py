"""Front-end settings, resolved once."""
