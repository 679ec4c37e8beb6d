"""Measure streams without end: what a second of one costs, and takes in memory, the longer it lasts.

All modes watch the same random pixels with the same random weights and say as many tokens a second: full attention, a
window without overlap, a window read anew, sinks and windows (StreamingVLM), a flush of all video (LiveCC), and a
parallel variant of this project with a window, watching before it speaks (serial) or meanwhile (fused). Nothing is
downloaded. Every mode has a time limit and says so where it is met; the file is written anew after each.
"""

import argparse
import json
import shlex
import signal
import statistics
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from swwatch.bench.endless.modes import MODES, Sample, open_session, play
from swwatch.bench.endless.page import report
from swwatch.bench.endless.settings import EndlessSettings, settle
from swwatch.bench.page import again
from swwatch.bench.shapes import random_model, shape_config
from swwatch.bench.stream.source import random_steps
from swwatch.bench.stream.trust import Neighbours, verdict
from swwatch.config import add_flags, load_settings
from swwatch.data.annotations import write_atomic
from swwatch.metrics.machine import machine
from swwatch.paths import make_folder

NAME = "bench_endless"
POINTS = 300  # of a curve at most


def build_parser() -> argparse.ArgumentParser:
    summary, _, details = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(prog="swwatch bench endless", description=summary, epilog=details)
    add_flags(parser, EndlessSettings)
    return parser


def main(argv: list[str]) -> int:
    settings = load_settings(EndlessSettings, flags=vars(build_parser().parse_args(argv)))
    if settings.report is not None:
        return again("endless", settings.report, settings.output, report, draw)
    settings = settle(settings, torch.cuda.is_available())
    if settings.output is not None:
        make_folder(settings.output)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    result = measure(settings, shlex.join(["swwatch", "bench", "endless", *argv]))
    print(report(result))
    if settings.output is not None:
        draw(result, settings.output)
        print(f"\nwritten to {settings.output}")
    return 0


def draw(result: dict, folder: Path) -> list[Path]:
    from swwatch.bench.endless.plots import draw_all  # matplotlib takes seconds to import

    return draw_all(result, folder, NAME)


@torch.no_grad()
def measure(settings: EndlessSettings, command: str) -> dict:
    """All modes, one after the other. Ctrl-C or SIGTERM ends the measuring and keeps what there is.

    Args:
        settings: settled.
    Returns:
        What is written to JSON: settings, machine, `modes` (name -> what, curve, reached_s, ended) and the verdict.
    """
    begun, before = time.perf_counter(), signal.signal(signal.SIGTERM, _stop)
    begin, neighbours = machine(), Neighbours(settings.device == "cuda")
    told = {key: value for key, value in asdict(settings).items() if key not in ("output", "report")}
    result = {"command": command, "settings": told, "begin": begin, "threads": torch.get_num_threads()}
    result |= {"modes": {}, "left_out": []}
    spreads: list[tuple[str, float | None]] = []
    try:
        config = shape_config(settings.shape, settings.variant)
        dtype = getattr(torch, settings.precision)
        model = random_model(config, "sdpa", settings.device, dtype, settings.seed).eval().requires_grad_(False)
        result["parameters"] = sum(p.numel() for p in model.parameters())
        pictures = random_steps(model.config.vision_config, settings.video_tokens, 8, settings.seed, settings.device)
        for name in [name for name in MODES if name in settings.modes]:
            mode = MODES[name]
            _say(begun, f"{name}: {mode.what}")
            _warm_up(mode, model, pictures, settings)
            samples, ended = play(open_session(mode, model, settings), pictures, settings)
            curve = thinned(samples)
            reached = samples[-1].at_s if samples else 0.0
            result["modes"][name] = {"what": mode.what, "reached_s": reached, "ended": ended, "curve": curve}
            if mode.constant:
                spreads.append((name, spread([sample.step_s for sample in samples[len(samples) // 2 :]])))
            _judge(result, settings, neighbours, spreads)
    except KeyboardInterrupt:
        result["left_out"].append("what was still to come: stopped from outside")
    finally:
        signal.signal(signal.SIGTERM, before)
    return _judge(result, settings, neighbours, spreads)


def thinned(samples: list[Sample]) -> dict[str, list]:
    """Samples as columns, neighbours taken together where there are many: times are medians, sizes the largest."""
    size = -(-len(samples) // POINTS) or 1
    groups = [samples[i : i + size] for i in range(0, len(samples), size)]
    columns: dict[str, list] = {}
    for name in Sample.__dataclass_fields__:
        take = statistics.median if name in ("step_s", "cpu_s", "gap_s") else max
        columns[name] = [_number(take, [getattr(sample, name) for sample in group]) for group in groups]
    return columns


def spread(times: list[float]) -> float | None:
    """Interquartile range by median of step times that ought to be alike; None for fewer than 4."""
    if len(times) < 4:
        return None
    low, middle, high = statistics.quantiles(times, n=4)
    return (high - low) / middle


def _number(take, values: list):
    if any(value is None for value in values):
        return None
    taken = take(values)
    return round(taken, 7) if isinstance(taken, float) else taken


def _warm_up(mode, model, pictures, settings) -> None:
    """A few seconds that are not counted."""
    play(open_session(mode, model, settings), pictures, replace(settings, seconds=5))


def _judge(result: dict, settings: EndlessSettings, quiet: Neighbours, spreads: list) -> dict:
    """Judge what there is, and write it."""
    result["end"] = machine()
    found = verdict(
        settings,
        load=quiet.load,
        cores=len(quiet.cores),
        others=quiet.share(),
        spreads=spreads,
        gpu_bytes=quiet.gpu_bytes,
    )
    result["verdict"] = found | {"rule": rule(settings)}
    if settings.output is not None:
        write_atomic(settings.output / f"{NAME}.json", [json.dumps(result) + "\n"])
        write_atomic(settings.output / f"{NAME}.md", [report(result) + "\n"])
    return result


def rule(settings: EndlessSettings) -> str:
    """When figures are trusted, in words."""
    return (
        f"trusted when the load average before the start is at most {settings.max_load:g} for each core, other "
        f"programs use at most {settings.max_others:.0%} of the cores meanwhile, and the step times of modes of "
        f"constant cost spread by at most {settings.max_spread:.0%} (interquartile range by median, second half)"
    )


def _say(begun: float, text: str) -> None:
    print(f"[{time.perf_counter() - begun:6.0f} s] {text}", file=sys.stderr, flush=True)


def _stop(*_) -> None:
    raise KeyboardInterrupt
