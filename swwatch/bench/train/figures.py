"""From the times of a row's steps to its figures.

Only useful work counts as operations: no padding, no pair of tokens that may not attend to each other, no logits at
rows without a label, nothing that gradient checkpointing computes twice. So the figures compare rows honestly, and are
low.

    6 x layer weights x tokens                    matrix products, forward (2) and backward (4)
    6 x head weights x label tokens               the same for the logits
    12 x layers x (heads x head size) x pairs     scores and weighted sums, forward (4) and backward (8)
"""

import statistics

from torch import nn

from swwatch.bench.gpus import known_rates
from swwatch.bench.train.settings import BASELINE, TrainBenchSettings

LOSS_TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2, "autocast": 3e-2}  # relative; the rows compute the same thing


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


def finish(results: list[dict], settings: TrainBenchSettings, where: dict) -> list[dict]:
    """Turn times into figures, and compare them with the baseline of the same length.

    Args:
        results: from `measure_rows`.
        where: from metrics.machine.
    """
    peak = None
    if where["gpus"] and settings.precision != "float32":
        peak = settings.peak_tflops * 1e12 if settings.peak_tflops else known_rates(where["gpus"][0])[0]
    done = [figures(result, settings.warmup, peak) if "not_measured" not in result else result for result in results]
    baselines = {result["length"]: result for result in done if result["row"] == BASELINE and "step_s" in result}
    for result in done:
        base = baselines.get(result["length"])
        if base and "step_s" in result:
            result["times_baseline"] = base["step_s"] / result["step_s"]
            result["times_baseline_cpu"] = base["cpu_step_s"] / result["cpu_step_s"]
    return done


def figures(result: dict, warmup: int, peak: float | None) -> dict:
    """The figures of one row.

    Args:
        peak: operations per second that the GPU can do; None: no utilisation.
    Returns:
        `result` with `step_s` (median), `spread` (interquartile range by median), `samples_per_s`, `tokens_per_s`
        (padding does not count), `label_tokens_per_s`, `loss` of the first step, `vision_s`, `flops`, `cpu_step_s`
        (CPU time of all threads, which other programs hardly change); and, where the peak is known, `mfu` over
        the whole step and `llm_mfu` over the time outside the vision tower's forward.
    """
    timed = result["times"][warmup:]
    seconds = [times["seconds"] for times in timed]
    step_s, vision_s, cpu_step_s = (
        statistics.median(times[key] for times in timed) for key in ("seconds", "vision_seconds", "cpu_seconds")
    )
    quartiles = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else [step_s] * 3
    sizes = ("layer_weights", "head_weights", "attention_width", "layers", "tokens", "pairs")
    flops = step_flops(labels=result["label_tokens"], **{key: result[key] for key in sizes})
    new = {
        "step_s": step_s,
        "spread": (quartiles[2] - quartiles[0]) / step_s,
        "vision_s": vision_s,
        "flops": flops,
        "cpu_step_s": cpu_step_s,
        "loss": result["times"][0]["loss"],
    }
    new |= {f"{key}_per_s": result[key] / step_s for key in ("samples", "tokens", "label_tokens")}
    if peak is not None:
        new |= {"mfu": flops / step_s / peak, "llm_mfu": flops / (step_s - vision_s) / peak}
    return result | new


def unequal_losses(rows: list[dict], precision: str) -> list[str]:
    """A warning where rows do not compute the same."""
    losses = {row["row"]: row["loss"] for row in rows if "loss" in row}
    low, high = min(losses.values(), default=0.0), max(losses.values(), default=0.0)
    if high - low <= LOSS_TOLERANCE[precision] * abs(high):
        return []
    values = ", ".join(f"{name} {loss:.5f}" for name, loss in losses.items())
    return [f"the rows do not compute the same loss: {values}"]
