"""`swwatch bench endless`."""
