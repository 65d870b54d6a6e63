"""Tasks: GLUE, one's own files, the embedded suite, and the metrics they are scored by."""
