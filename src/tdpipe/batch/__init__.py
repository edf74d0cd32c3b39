"""OpenAI batch files: reading, running, writing."""
