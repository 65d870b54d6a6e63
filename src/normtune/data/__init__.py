"""Tasks: GLUE, the toy suite, the user's own files, and the metrics they are scored by."""
