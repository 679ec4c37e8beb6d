"""Raw annotations and clips to jsonl: PE-Video and FunQA."""
