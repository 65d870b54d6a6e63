"""Tests, comparisons and the paper's claims, from records and tables of scores."""
