"""Submissions to the GLUE server: the files it takes, who answers them, and the record of what it replied."""
