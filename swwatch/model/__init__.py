"""Room 3: loading Qwen2.5-VL with a variant's positions and masks, and the KV cache."""
