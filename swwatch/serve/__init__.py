"""`swwatch serve`: a page and a socket where a model speaks about what a camera sees."""
