"""Records of runs and measurements, read without torch."""
