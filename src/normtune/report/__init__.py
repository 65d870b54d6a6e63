"""Figures and tables, drawn from plain values: nothing here loads a model."""
