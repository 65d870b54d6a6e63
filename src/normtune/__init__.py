"""normtune: fine-tune a transformer by training only a chosen sliver of it."""
