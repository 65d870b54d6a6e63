"""What a run and a measurement leave behind, read without torch."""
