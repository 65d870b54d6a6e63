"""Training what a selection chose, and the record of it."""
