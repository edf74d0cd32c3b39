"""The centralized engine: request life cycle and the loop that drives an executor."""
