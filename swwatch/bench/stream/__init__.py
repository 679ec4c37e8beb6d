"""`swwatch bench stream`."""
