"""Measure training steps: attention backends, padding and packing, on one set of weights and the same samples.

Every row of the table is a process of its own that takes optimizer steps (forward, backward, clipping, AdamW) over
all samples, in as many forwards as the row needs. On a CPU the rows take turns step by step, so that other programs
slow them all alike; on a GPU they come one after the other. By default the toy model learns from toy clips.

The row dense-eager is what the public release does: one sample a forward, eager attention with a dense mask,
transformers' own vision tower and loss. All other rows run as `swwatch train` would run them.
"""

import argparse
import json
import shlex
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from transformers.utils import is_flash_attn_2_available

from swwatch.bench.flops import peak_flops, step_flops
from swwatch.bench.train.processes import RowProcess
from swwatch.bench.train.settings import BASELINE, ROWS, SWEPT, BenchSettings, Row, settle, why_not
from swwatch.bench.train.table import report
from swwatch.config import add_flags, load_settings
from swwatch.data.annotations import encode_line, write_atomic
from swwatch.metrics.machine import machine
from swwatch.paths import make_folder
from swwatch.rules import variants

LOSS_TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2, "autocast": 3e-2}  # relative; the rows compute the same thing


def build_parser() -> argparse.ArgumentParser:
    summary, _, details = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(prog="swwatch bench train", description=summary, epilog=details)
    add_flags(parser, BenchSettings)
    return parser


def main(argv: list[str]) -> int:
    settings = load_settings(BenchSettings, flags=vars(build_parser().parse_args(argv)))
    cuda = torch.cuda.is_available()
    settings = settle(settings, cuda)
    if settings.output is not None:
        make_folder(settings.output)
    begin = machine()
    warnings = busy(begin)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="swwatch-bench-") as folder:
        ready = toy(settings, Path(folder))
        rows = measure(ready, [(ROWS[name], None) for name in settings.rows or ROWS], cuda)
        swept = [(ROWS[name], length) for length in settings.sweep_length for name in settings.rows or SWEPT]
        sweep = measure(ready, swept, cuda)
    result = {
        "command": shlex.join(["swwatch", "bench", "train", *argv]),
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in asdict(settings).items()},
        "begin": begin,
        "end": machine(),
        "rows": finish(rows, settings, begin),
        "sweep": finish(sweep, settings, begin),
    }
    result["warnings"] = warnings + doubts(result, settings)
    text = report(result)
    print(text)
    if settings.output is not None:
        write_atomic(settings.output / "bench_train.json", [json.dumps(result, indent=1) + "\n"])
        write_atomic(settings.output / "bench_train.md", [text + "\n"])
        print(f"\nwritten to {settings.output}")
    return 0


def toy(settings: BenchSettings, folder: Path) -> BenchSettings:
    """Make the toy model and clips where they are asked for; other settings stay as they are."""
    if settings.shape != "toy" or settings.model is not None:
        return settings
    from swwatch.toy.checkpoint import make_checkpoint
    from swwatch.toy.clips import NAME, Recipe, write_dataset

    model, data = make_checkpoint(folder / "model", seed=settings.seed), folder / "data"
    write_dataset(data, Recipe(clips=settings.samples, test_clips=0, seed=settings.seed))
    records = [json.loads(path.read_text()) for path in sorted((data / NAME / "train").glob("*.json"))]
    for record in records:
        record["video_path"] = f"{NAME}/videos/train/{record['video_id']}.mp4"
    write_atomic(data / "train.jsonl", map(encode_line, records))
    return replace(settings, model=str(model), data=data / "train.jsonl")


def measure(settings: BenchSettings, jobs: Sequence[tuple[Row, int | None]], cuda: bool) -> list[dict]:
    """Measure rows, each with its length of a sweep or None.

    Returns:
        For each: `row`, `attention`, `rows`, `length`, and what its process told, with the `times` of its steps; or
        `not_measured`, the reason.
    """
    causal, flash = variants.get(settings.variant).streams == 1, is_flash_attn_2_available()
    results = []
    for row, length in jobs:
        result = {"row": row.name, "attention": row.attention, "rows": row.rows, "length": length}
        reason = why_not(row, settings, cuda, flash, causal)
        results.append(result | ({"not_measured": reason} if reason else {}))
    open_jobs = [(result, row) for result, (row, _) in zip(results, jobs, strict=True) if "not_measured" not in result]
    at_once = 1 if cuda else len(ROWS)  # two models may not fit into a GPU's memory
    for at in range(0, len(open_jobs), at_once):
        take_turns(settings, open_jobs[at : at + at_once])
    return results


def take_turns(settings: BenchSettings, jobs: Sequence[tuple[dict, Row]]) -> None:
    """Measure some rows side by side: one step of each, again and again. Their results are written into the dicts."""
    running = []
    try:
        for result, row in jobs:
            print(f"{row.name}{_at(result)}: starting", file=sys.stderr, flush=True)
            process = RowProcess(settings, row, result["length"])
            running.append((result, process))
            result |= process.facts() | {"times": []}
        for turn in range(settings.warmup + settings.repeats):
            for result, process in running:
                if (times := process.step()) is None:
                    continue
                result["times"].append(times)
                what = "warm-up" if turn < settings.warmup else f"{turn - settings.warmup + 1}/{settings.repeats}"
                print(f"{result['row']}{_at(result)}: {what} {times['seconds']:.3f} s", file=sys.stderr, flush=True)
        for result, process in running:
            result["memory"] = process.memory()
    finally:
        for result, process in running:
            process.close()
            if process.problem:
                result["not_measured"] = process.problem


def _at(result: dict) -> str:
    return "" if result["length"] is None else f" at {result['length']:,} tokens"


def finish(results: list[dict], settings: BenchSettings, where: dict) -> list[dict]:
    """Turn times into figures.

    Args:
        results: from `measure`.
        where: from `machine`.
    """
    bf16_on_gpu = bool(where["gpus"]) and settings.precision != "float32"
    peak = peak_flops(where["gpus"][0], settings.peak_tflops) if bf16_on_gpu else None
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
    step_s, vision_s = statistics.median(seconds), statistics.median(times["vision_seconds"] for times in timed)
    quartiles = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else [step_s] * 3
    sizes = ("layer_weights", "head_weights", "attention_width", "layers", "tokens", "pairs")
    flops = step_flops(labels=result["label_tokens"], **{key: result[key] for key in sizes})
    new = {"step_s": step_s, "spread": (quartiles[2] - quartiles[0]) / step_s, "vision_s": vision_s, "flops": flops}
    new |= {f"{key}_per_s": result[key] / step_s for key in ("samples", "tokens", "label_tokens")}
    new["cpu_step_s"] = statistics.median(times["cpu_seconds"] for times in timed)
    new["loss"] = result["times"][0]["loss"]
    if peak is not None:
        new |= {"mfu": flops / step_s / peak, "llm_mfu": flops / (step_s - vision_s) / peak}
    return result | new


def busy(where: dict) -> list[str]:
    """Whether the machine has something else to do, seen before the start."""
    if where["load"][0] <= where["cores"]:
        return []
    return [
        f"load average {where['load'][0]:g} on {where['cores']} cores before the start: other programs were running"
    ]


def doubts(result: dict, settings: BenchSettings) -> list[str]:
    """What speaks against trusting the figures."""
    found = []
    for row in result["rows"] + result["sweep"]:
        if row.get("spread", 0) > settings.max_spread:
            found.append(
                f"{row['row']}{_at(row)}: step times spread by {row['spread']:.0%}: measure again on an idle machine"
            )
    losses = {row["row"]: row["loss"] for row in result["rows"] if "loss" in row}
    if losses:
        low, high = min(losses.values()), max(losses.values())
        if high - low > LOSS_TOLERANCE[settings.precision] * abs(high):
            told = ", ".join(f"{name} {loss:.5f}" for name, loss in losses.items())
            found.append(f"the rows do not compute the same loss: {told}")
    return found
