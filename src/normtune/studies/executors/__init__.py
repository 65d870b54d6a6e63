"""Executors, which run a study's jobs."""
