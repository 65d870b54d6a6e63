"""Executors: who does a study's jobs."""
