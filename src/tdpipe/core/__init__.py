"""Nouns of the engine: requests, plans, blocks, limits, errors. Standard library only."""
