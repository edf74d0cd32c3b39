"""A pipeline on a virtual clock."""
