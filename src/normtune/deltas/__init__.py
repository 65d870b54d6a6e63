"""Deltas: what a training changed, in a few kilobytes."""
