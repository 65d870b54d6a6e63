"""Which entries train: selections, the methods that make them, and an expression for one's own."""
