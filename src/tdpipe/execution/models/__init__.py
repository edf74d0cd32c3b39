"""Decoder models: configuration, sources, weights, layers."""
