"""Many live sessions on one model."""
