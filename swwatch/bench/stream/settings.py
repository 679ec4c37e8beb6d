"""Every setting of `swwatch bench stream`, and which points of its sweep are measured."""

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal

from swwatch.bench.shapes import SHAPES
from swwatch.config import setting
from swwatch.errors import UserError
from swwatch.rules import variants
from swwatch.rules.variants import Speaks, speaking

BASELINE, REFERENCE = "reprefill", "serial"
ENGINES = (REFERENCE, "fused", "streams", "two_device", BASELINE)  # in the order of the table
NO_LIMIT = 1e9
# what is swept where nothing is asked for: the first of each list is the base
SWEEPS = {
    "cpu": {"shape": ("0.2b",), "video_tokens": (64, 16, 256), "k": (3, 1, 8), "steps": (30, 10)},
    "cuda": {
        "shape": ("7b",),
        "video_tokens": (64, 16, 128, 256, 512, 1024),
        "k": (3, 1, 8),
        "steps": (30, 10, 120),
    },
}
FULL = {"video_tokens": (64, 16, 128, 256, 512, 1024), "k": (3, 1, 8), "steps": (30, 10, 120)}


@dataclass(frozen=True)
class Point:
    """One place of the sweep: `video_tokens` a step, `k` tokens spoken a step, `steps`."""

    shape: str
    video_tokens: int
    k: int
    steps: int

    def __str__(self) -> str:
        return f"{self.shape}, {self.video_tokens} video tokens, K = {self.k}, {self.steps} steps"


@dataclass(frozen=True)
class StreamSettings:
    """Settings of `swwatch bench stream`."""

    # what
    shape: tuple[str, ...] | None = setting(None, f"random models of: {', '.join(SHAPES)} (default: 0.2b, on cuda 7b)")
    model: str | None = setting(None, "checkpoint folder or hub id, instead of a shape")
    variant: str = setting("group", "one of the variants that speak while they watch")
    engines: tuple[str, ...] | None = setting(None, f"which (default: all): {', '.join(ENGINES)}")
    # the sweep: the first of each list is the base; video tokens and k vary one by one over the fewest steps
    video_tokens: tuple[int, ...] | None = setting(
        None, "video tokens a step, the first is the base (default: 64,16,256)"
    )
    k: tuple[int, ...] | None = setting(None, "tokens spoken a step (default: 3,1,8)")
    steps: tuple[int, ...] | None = setting(None, "steps of a stream (default: 30,10; on cuda 120 too)")
    full: bool = setting(False, "all combinations of the lists (default lists: up to 1024 tokens and 120 steps)")
    # how
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "cpu or cuda (auto: cuda where there is one)")
    precision: Literal["auto", "float32", "bfloat16"] = setting("auto", "of the weights (auto: bfloat16 on cuda)")
    fast: bool | None = setting(None, "static memory and CUDA graphs (default: on cuda)")
    warmup: int = setting(1, "runs of each engine at the base that are not counted")
    repeats: int = setting(3, "runs of each engine at the base; the engines take turns")
    sweep_repeats: int | None = setting(None, "the same at the other points (default: 1, on cuda 3)")
    threads: int | None = setting(None, "CPU threads (default: torch's own choice)")
    max_engine_s: float | None = setting(
        None, "leave out an engine at a point where a run would take longer (default: 300 on a CPU)"
    )
    limit_s: float | None = setting(None, "begin no further point or part after so many seconds; it is then listed")
    bandwidth: float | None = setting(None, "memory bandwidth in GB/s, where the table does not know the GPU")
    # further parts
    paced: bool = setting(True, "paced runs at the base: staleness at 2 frames a second and under load")
    sustain: bool = setting(False, "search the highest rate that is held without a dropped frame")
    hold_s: float = setting(10.0, "a rate is held when it is held for so many seconds of the stream")
    session_steps: int = setting(30, "steps of one session in that search; the next one follows at once")
    queue: int = setting(8, "steps that may wait")
    soak: float = setting(0.0, "minutes of one paced session: drift of step time, memory and positions")
    soak_rate: float = setting(1.0, "its steps a second (1: video of 2 frames a second)")
    # judging
    max_load: float = setting(0.5, "too busy: load average before the start above this share of the cores")
    max_others: float = setting(0.25, "too busy: other programs used more than this share of the cores meanwhile")
    max_spread: float = setting(0.15, "too busy: step times of an engine at the base spread by more than this")
    seed: int = setting(0, "of random weights, pixels and words")
    output: Path | None = setting(None, "folder for bench_stream.json, .md and the figures")
    report: Path | None = setting(None, "measure nothing: draw the table and figures of this JSON file again")

    @property
    def models(self) -> tuple[str, ...]:
        """The shapes, or the one checkpoint."""
        return self.shape or (self.model,)

    def __post_init__(self):
        if variants.get(self.variant).speaks is Speaks.OFFLINE:
            streaming = speaking(Speaks.ALTERNATING, Speaks.PARALLEL)
            raise UserError(f"{self.variant!r} speaks after the whole video: choose one of {', '.join(streaming)}")
        for name, known in (("engine", ENGINES), ("shape", tuple(SHAPES))):
            asked = self.engines if name == "engine" else self.shape
            unknown = [value for value in asked or () if value not in known]
            if unknown:
                raise UserError(f"no {name} {unknown[0]!r}: choose from {', '.join(known)}")
        if self.engines and REFERENCE not in self.engines:
            raise UserError(f"every gain is told against {REFERENCE}: add it to --engines")
        if self.model is not None and self.shape:
            raise UserError("--model and --shape both say which model: give one of them")
        for name in ("video_tokens", "k", "steps", "repeats", "sweep_repeats", "threads", "queue", "session_steps"):
            value = getattr(self, name)
            values = value if isinstance(value, tuple) else () if value is None else (value,)
            if any(one < 1 for one in values):
                raise UserError(f"{name} must be at least 1, not {min(values)}")
        if any(steps < 4 for steps in self.steps or ()):
            raise UserError("a stream needs at least 4 steps: the first and the last one are not counted")
        for name in ("hold_s", "soak_rate", "max_engine_s", "limit_s", "bandwidth"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise UserError(f"{name} must be above 0, not {value:g}")
        if self.warmup < 0 or self.soak < 0:
            raise UserError("warmup and soak must not be negative")


def settle(settings: StreamSettings, cuda: bool) -> StreamSettings:
    """Decide what depends on the machine.

    Raises:
        UserError: what was asked for cannot be had here.
    """
    device = settings.device if settings.device != "auto" else "cuda" if cuda else "cpu"
    if device == "cuda" and not cuda:
        raise UserError("device cuda was asked for, but this machine has no CUDA device: use --device cpu")
    lists = SWEEPS[device] | (FULL if settings.full else {})
    found = {key: getattr(settings, key) or value for key, value in lists.items()}
    if settings.model is not None:
        found["shape"] = None
    precision = "bfloat16" if device == "cuda" else "float32"
    return replace(
        settings,
        **found,
        device=device,
        engines=settings.engines or ENGINES,
        precision=precision if settings.precision == "auto" else settings.precision,
        sweep_repeats=settings.sweep_repeats or (3 if device == "cuda" else 1),
        fast=device == "cuda" if settings.fast is None else settings.fast,
        max_engine_s=settings.max_engine_s or (NO_LIMIT if device == "cuda" else 300.0),
    )


def points(settings: StreamSettings) -> list[Point]:
    """What is measured, the base of every shape first."""
    found = []
    for shape in settings.models:
        lists = (settings.video_tokens, settings.k, settings.steps)
        base = tuple(values[0] for values in lists)
        if settings.full:
            chosen = [base, *(place for place in product(*lists) if place != base)]
        else:
            short = (*base[:2], min(settings.steps))
            chosen = [base, short]
            for axis, values in enumerate(lists[:2]):
                chosen += [(*short[:axis], value, *short[axis + 1 :]) for value in values[1:]]
            chosen += [(*base[:2], steps) for steps in settings.steps[1:]]
        found += [Point(shape, *place) for place in dict.fromkeys(chosen)]
    return found
