"""Schedulers: pure, deterministic choices over EngineState."""
