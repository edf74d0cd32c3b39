"""Between users and the engine: jobs to token ids, events to finished outputs."""
