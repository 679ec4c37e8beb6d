"""`swwatch bench train`."""
