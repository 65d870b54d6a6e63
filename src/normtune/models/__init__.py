"""Base models: where they come from, what they are made of, and the head that a task puts on them."""
