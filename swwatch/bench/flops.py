"""Floating-point operations of the LLM in a training step, and what GPUs can do at most.

Only useful work counts: no padding, no pair of tokens that may not attend to each other, no logits at rows without a
label, nothing that gradient checkpointing computes twice. So the figures compare rows honestly, and are low.

    6 x layer weights x tokens                    matrix products, forward (2) and backward (4)
    6 x head weights x label tokens               the same for the logits
    12 x layers x (heads x head size) x pairs     scores and weighted sums, forward (4) and backward (8)
"""

from torch import nn

# dense bf16 peak in TFLOP/s by part of the GPU's name, from the vendor's data sheets; the longest match counts
PEAK_TFLOPS = {
    "H200": 989.0,
    "H200 NVL": 835.0,
    "GH200": 989.0,
    "H100": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "A100": 312.0,
    "A40": 149.7,
    "RTX A6000": 154.8,
    "L40S": 362.0,
    "L4": 121.0,
}


def step_flops(
    *, layer_weights: int, head_weights: int, attention_width: int, layers: int, tokens: int, labels: int, pairs: int
) -> float:
    """Useful operations of the LLM, forward and backward.

    Args:
        layer_weights: of the matrices in the layers; head_weights: of the output head.
        attention_width: heads times head size.
        tokens, labels: real tokens, and those with a label.
        pairs: of a query and a key that it may attend to, itself included.
    """
    return 6.0 * (layer_weights * tokens + head_weights * labels) + 12.0 * layers * attention_width * pairs


def llm_sizes(model: nn.Module) -> dict[str, int]:
    """The model's part of `step_flops`' arguments."""
    text = model.config.text_config
    linear = (m for m in model.model.language_model.layers.modules() if isinstance(m, nn.Linear))
    return {
        "layer_weights": sum(m.weight.numel() for m in linear),
        "head_weights": model.lm_head.weight.numel(),
        "attention_width": text.num_attention_heads * model.model.language_model.layers[0].self_attn.head_dim,
        "layers": text.num_hidden_layers,
    }


def peak_flops(gpu: str, given_tflops: float | None = None) -> float | None:
    """Dense bf16 peak of a GPU in operations per second; None where nobody knows it."""
    if given_tflops is not None:
        return given_tflops * 1e12
    peak = of_gpu(PEAK_TFLOPS, gpu)
    return None if peak is None else peak * 1e12


def of_gpu(table: dict[str, float], gpu: str) -> float | None:
    """The value of the longest name in a table that is part of a GPU's name; None where there is none."""
    words = gpu.split()
    found = [name for name in table if _names(words, name.split())]
    return table[max(found, key=len)] if found else None


def _names(words: list[str], part: list[str]) -> bool:
    """Whether all words of `part` are among a GPU's: "A100-SXM4-80GB" counts as A100, "L40S" not as L4."""
    return all(any(word == wanted or word.startswith(f"{wanted}-") for word in words) for wanted in part)
