"""What a run records of itself."""
