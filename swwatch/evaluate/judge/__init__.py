"""`swwatch judge`: a language model grades, or compares two runs."""
