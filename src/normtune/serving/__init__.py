"""Serving: a bank of tasks behind HTTP."""
