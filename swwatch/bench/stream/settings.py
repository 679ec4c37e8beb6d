"""Every setting of `swwatch bench stream`, and which points of its sweep are measured."""

from dataclasses import dataclass, replace
from itertools import product
from typing import Self

from swwatch.bench.settings import BenchSettings, check_known, check_model
from swwatch.bench.shapes import SHAPES
from swwatch.config import setting
from swwatch.errors import UserError
from swwatch.model.checks import saved_settings
from swwatch.model.flags import SessionFlags
from swwatch.policies.keep import parse_keep
from swwatch.policies.think import OFF, parse_think
from swwatch.rules import variants
from swwatch.rules.variants import Speaks, speaking

BASELINE, REFERENCE = "reprefill", "serial"
ENGINES = (REFERENCE, "fused", "streams", "two_device", BASELINE)  # in the order of the table
NO_LIMIT = 1e9
# what is swept where nothing is asked for: the first of each list is the base
FULL = {"video_tokens": (64, 16, 128, 256, 512, 1024), "k": (3, 1, 8), "steps": (30, 10, 120)}
SWEEPS = {
    "cpu": {"shape": ("0.2b",), "video_tokens": (64, 16, 256), "k": (3, 1, 8), "steps": (30, 10)},
    "cuda": {"shape": ("7b",), **FULL},
}


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
class StreamBenchSettings(SessionFlags, BenchSettings):
    """Measure watching while speaking: all engines on one set of weights, next to what is possible at best.

    Every engine narrates the same stream of random pixels and must say the same words. `reprefill` is what the
    papers' public release does: everything again for every frame. `serial` watches a step, then speaks; `fused`,
    `streams` and `two_device` watch the next step meanwhile, and gain S over it, which is told next to the bound (p
    + g) / max(p, g), with --think (p + g + c) / max(p, g, c). The base point comes first, then the parts that are
    asked for, then the sweep. What could not be measured is listed with its reason, and the file is written anew
    after every part, so that a run that is cut short keeps what it has.
    """

    # what
    shape: tuple[str, ...] | None = setting(None, f"random models of: {', '.join(SHAPES)} (default: 0.2b, on cuda 7b)")
    model: str | None = setting(None, "checkpoint folder or hub id, instead of a shape")
    variant: str = setting("group", "one of the variants that speak while they watch")
    engines: tuple[str, ...] | None = setting(None, f"which (default: all): {', '.join(ENGINES)}")
    # the sweep: the first of each list is the base; video tokens and k vary one by one over the fewest steps
    video_tokens: tuple[int, ...] | None = setting(
        None, "of a step, the first is the base (default: 64,16,256)", least=1
    )
    k: tuple[int, ...] | None = setting(None, "tokens spoken a step (default: 3,1,8)", least=1)
    steps: tuple[int, ...] | None = setting(
        None, "of a stream; first and last are not counted (default: 30,10; on cuda 120 too)", least=4
    )
    full: bool = setting(False, "all combinations of the lists (default lists: up to 1024 tokens and 120 steps)")
    # how
    fast: bool | None = setting(None, "static memory and CUDA graphs (default: on cuda)")
    warmup: int = setting(1, "runs of each engine at the base that are not counted", least=0)
    repeats: int = setting(3, "runs of each engine at the base; the engines take turns", least=1)
    sweep_repeats: int | None = setting(None, "the same at the other points (default: 1, on cuda 3)", least=1)
    max_engine_s: float | None = setting(
        None, "leave out an engine where a run would take longer (default: 300 on a CPU)", above=0
    )
    limit_s: float | None = setting(None, "begin no further part after so many seconds; it is then listed", above=0)
    bandwidth: float | None = setting(None, "memory bandwidth in GB/s, where the table does not know the GPU", above=0)
    # further parts
    paced: bool = setting(True, "paced runs at the base: staleness at the stream's own pace and under load")
    sustain: bool = setting(False, "search the highest rate that is held without a dropped frame")
    hold_s: float = setting(10.0, "a rate is held when it is held for so many seconds of the stream", above=0)
    session_steps: int = setting(30, "steps of one session in that search; the next one follows at once", least=1)
    queue: int = setting(8, "steps that may wait", least=1)
    soak: float = setting(0.0, "minutes of one paced session: drift of step time, memory and positions", least=0)
    soak_rate: float | None = setting(None, "its steps a second (default: the stream's own pace)", above=0)
    max_spread: float = setting(0.15, "too busy: step times of an engine at the base spread by more than this")

    def __post_init__(self):
        super().__post_init__()
        if variants.get(self.variant).speaks is Speaks.OFFLINE:
            streaming = speaking(Speaks.ALTERNATING, Speaks.PARALLEL)
            raise UserError(f"{self.variant!r} speaks after the whole video: choose one of {', '.join(streaming)}")
        check_model(self.model, self.shape)
        if self.think is not None:
            parse_think(self.think).check(variants.get(self.variant), self.keep and parse_keep(self.keep))
        check_known("engine", self.engines, ENGINES)
        if self.engines and REFERENCE not in self.engines:
            raise UserError(f"every gain is told against {REFERENCE}: add it to --engines")

    @property
    def models(self) -> tuple[str, ...]:
        """The shapes, or the one checkpoint."""
        return self.shape or (self.model,)

    @property
    def soak_steps(self) -> int:
        return max(2, round(60 * self.soak * self.soak_rate))

    @property
    def steadiness(self) -> str:
        return f"the step times of every engine at the base spread by at most {self.max_spread:.0%}"

    def settled(self, cuda: bool) -> Self:
        settled = super().settled(cuda, self.model)
        on_gpu = settled.device == "cuda"
        lists = SWEEPS[settled.device] | (FULL if self.full else {})
        found = {key: getattr(self, key) or value for key, value in lists.items()}
        if self.model is not None:
            found["shape"] = None
        keep = self.settled_keep(self.model)
        forgets = keep is not None and keep.forgets
        if self.fast and forgets:
            raise UserError(f"keep {keep} and --fast: CUDA graphs read memory that never moves, give one of them")
        saved = {} if self.model is None else saved_settings(self.model)
        think = parse_think(self.think or saved.get("think") or OFF)
        if self.fast and think != OFF:
            raise UserError(f"think {think} and --fast: CUDA graphs have no memory for thoughts, give one of them")
        return replace(
            settled,
            **found,
            engines=self.engines or ENGINES,
            sweep_repeats=self.sweep_repeats or (3 if on_gpu else 1),
            soak_rate=self.soak_rate or 1 / settled.step_s,
            fast=on_gpu and not forgets and think == OFF if self.fast is None else self.fast,
            max_engine_s=self.max_engine_s or (NO_LIMIT if on_gpu else 300.0),
        )


def points(settings: StreamBenchSettings) -> list[Point]:
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
