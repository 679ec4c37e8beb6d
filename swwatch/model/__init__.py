"""Models with a variant's positions and masks: families, loading, attention, KV caches, the CUDA fast path."""
