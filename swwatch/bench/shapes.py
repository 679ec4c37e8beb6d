"""Sizes of Qwen2.5-VL that can be measured with random weights: nothing is downloaded or read."""

SHAPES = {  # text, vision: 3b and 7b as the released checkpoints' config.json
    "toy": (
        {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
        | {"num_key_value_heads": 2, "vocab_size": 256, "tie_word_embeddings": True},
        {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "fullatt_block_indexes": [1]},
    ),
    "0.2b": (
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 16, "num_attention_heads": 12}
        | {"num_key_value_heads": 4, "vocab_size": 32768, "tie_word_embeddings": True},
        {"depth": 8, "hidden_size": 512, "intermediate_size": 1536, "num_heads": 8, "fullatt_block_indexes": [3, 7]},
    ),
    "3b": (
        {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16}
        | {"num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
        {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
        | {"fullatt_block_indexes": [7, 15, 23, 31]},
    ),
    "7b": (
        {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
        | {"num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
        {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
        | {"fullatt_block_indexes": [7, 15, 23, 31]},
    ),
}
