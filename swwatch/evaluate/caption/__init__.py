"""`swwatch eval`: captions and their scores."""
