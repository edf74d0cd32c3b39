"""Data parallel replicas: several engines of one model share one input."""
