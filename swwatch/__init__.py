"""Video language models that speak while they watch."""
