"""Submissions to the GLUE server: the files it takes, the deltas that answer them, and the record of its reply."""
