"""What a run says of itself, computed from its record."""
