"""`swwatch bench live`."""
