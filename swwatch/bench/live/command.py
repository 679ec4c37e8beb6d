"""Measure how many live sessions one device holds at 2 frames a second.

Sessions are opened on one stage, as `swwatch serve` does it, and get frames at the pace of a camera. Their beginnings
are spread evenly, and where one ends the next begins. A number of sessions is held when no step is lost, every session
is answered, and 95 of 100 tokens come within --max-lag-s of the newest picture that they could see. The number is
doubled until it is not held any more, or first responses come too late, and then found by bisection.
"""

import argparse
import json
import math
import shlex
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from transformers import AutoProcessor

from swwatch.bench import page
from swwatch.bench.live.trial import LATE_S, QUESTION, Pace, Trial, attempt
from swwatch.bench.shapes import SHAPES, random_model, shape_config
from swwatch.bench.stream.trust import FOREIGN_BYTES, Neighbours
from swwatch.bench.train.table import markdown
from swwatch.config import add_flags, load_settings, setting
from swwatch.data.annotations import write_atomic
from swwatch.data.budget import BUDGETS
from swwatch.data.pixels import FrameEncoder
from swwatch.data.prompt import Markup
from swwatch.data.video import FRAMES_PER_SECOND
from swwatch.errors import UserError
from swwatch.live.stage import Ended, Room, Stage
from swwatch.metrics.machine import machine
from swwatch.model.loading import Loaded, load
from swwatch.model.settings import Settings
from swwatch.paths import make_folder
from swwatch.policies.choose import Greedy
from swwatch.rules import variants
from swwatch.rules.schedule import STEP_S
from swwatch.rules.variants import Speaks

NAME = "bench_live"
PICTURES = 8  # different ones, shown in turn


@dataclass(frozen=True)
class CapacitySettings:
    """Settings of `swwatch bench live`."""

    shape: str | None = setting(None, f"a random model: {', '.join(SHAPES)} (default: 0.2b, on cuda 7b)")
    model: str | None = setting(None, "checkpoint folder or hub id, instead of a shape")
    variant: str = setting("group", "one of the variants that speak while they watch")
    engine: str = setting("auto", "serial, fused, streams, two_device, or auto")
    sessions: tuple[int, ...] | None = setting(None, "try these numbers, and search no further")
    begin: int = setting(1, "the first number that is tried")
    most: int = setting(128, "the highest number that is tried")
    rate: float = setting(2.0, "frames a second of each camera; a step is a second in any case")
    k: int = setting(3, "tokens spoken a step")
    width: int = setting(224, "of the frames that are pushed, pixels")
    height: int = setting(224, "of the frames that are pushed, pixels")
    queue: int = setting(8, "steps of a session that may wait; then the oldest is dropped")
    session_s: float = setting(20.0, "length of a session, seconds; the next one takes its place")
    seconds: float = setting(20.0, "measured for each number, after as many as one session lasts")
    max_first_s: float = setting(0.5, "first responses must come within so many seconds (P95)")
    max_lag_s: float = setting(1.0, "tokens must come within so many seconds (P95)")
    senders: int = setting(4, "threads that push frames")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "cpu or cuda (auto: cuda where there is one)")
    precision: Literal["auto", "float32", "bfloat16"] = setting("auto", "of the weights (auto: bfloat16 on cuda)")
    threads: int | None = setting(None, "CPU threads of the model (default: torch's own choice)")
    max_load: float = setting(0.5, "too busy: load average before the start above this share of the cores")
    max_others: float = setting(0.25, "too busy: other programs used more than this share of the cores meanwhile")
    seed: int = setting(0, "of random weights and pictures")
    output: Path | None = setting(None, "folder for bench_live.json and .md")

    def __post_init__(self):
        if self.model is not None and self.shape is not None:
            raise UserError("--model and --shape both say which model: give one of them")
        if self.shape is not None and self.shape not in SHAPES:
            raise UserError(f"no shape {self.shape!r}: choose from {', '.join(SHAPES)}")
        if variants.get(self.variant).speaks is Speaks.OFFLINE:
            raise UserError(f"{self.variant!r} speaks after the whole video, and a live stream has no end")
        for name in ("begin", "k", "width", "height", "queue", "senders", "threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"{name} must be at least 1, not {value}")
        for name in ("rate", "session_s", "seconds", "max_first_s", "max_lag_s"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} must be above 0, not {getattr(self, name):g}")
        if self.most < self.begin:
            raise UserError(f"most {self.most} is below begin {self.begin}")
        if any(number < 1 for number in self.sessions or ()):
            raise UserError(f"sessions must be at least 1, not {min(self.sessions)}")
        if self.session_s < STEP_S or self.rate < FRAMES_PER_SECOND:
            raise UserError(
                f"a session needs {STEP_S:g} s of at least {FRAMES_PER_SECOND} frames: raise session_s or rate"
            )

    @property
    def answer_s(self) -> float:
        """How long before the end a session must have begun to be counted: a step, and what is allowed for it."""
        return min(STEP_S + self.max_lag_s, self.seconds / 2)

    @property
    def room(self) -> Room:
        """What a session here comes to: on a GPU memory is set aside for it, and many must fit in."""
        steps = math.ceil(self.session_s / STEP_S)
        return Room(steps, self.k * steps)


def build_parser() -> argparse.ArgumentParser:
    summary, _, details = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(prog="swwatch bench live", description=summary, epilog=details)
    add_flags(parser, CapacitySettings)
    return parser


def main(argv: list[str]) -> int:
    settings = settle(load_settings(CapacitySettings, flags=vars(build_parser().parse_args(argv))))
    if settings.output is not None:
        make_folder(settings.output)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    result = measure(settings, shlex.join(["swwatch", "bench", "live", *argv]))
    text = report(result)
    print(text)
    if settings.output is not None:
        write_atomic(settings.output / f"{NAME}.md", [text + "\n"])
        print(f"\nwritten to {settings.output}")
    return 0


def settle(settings: CapacitySettings) -> CapacitySettings:
    """Decide what depends on the machine.

    Raises:
        UserError: what was asked for cannot be had here.
    """
    cuda = torch.cuda.is_available()
    device = settings.device if settings.device != "auto" else "cuda" if cuda else "cpu"
    if device == "cuda" and not cuda:
        raise UserError("device cuda was asked for, but this machine has no CUDA device: use --device cpu")
    shape = settings.shape or (None if settings.model else "7b" if device == "cuda" else "0.2b")
    precision = "bfloat16" if device == "cuda" else "float32"
    precision = precision if settings.precision == "auto" else settings.precision
    return replace(settings, device=device, shape=shape, precision=precision)


def measure(settings: CapacitySettings, command: str) -> dict:
    """Try numbers of sessions. The result is written after each of them, where there is an output folder."""
    begin, quiet = machine(), Neighbours(settings.device == "cuda")
    loaded = make_loaded(settings)
    pictures = np.random.default_rng(settings.seed).integers(
        0, 255, (PICTURES, settings.height, settings.width, 3), dtype=np.uint8
    )
    told = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(settings).items()}
    stage = _warm_up(loaded, settings, pictures)
    result = {"command": command, "settings": told, "begin": begin, "threads": torch.get_num_threads()}
    result |= {
        "engine": stage.engine,
        "why": stage.why,
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "video_tokens": _encoder(loaded).tokens_per_step(settings.height, settings.width, None),
        "trials": [],
    }
    pace = Pace(
        settings.rate,
        settings.k,
        settings.queue,
        settings.session_s,
        settings.seconds,
        settings.answer_s,
        settings.senders,
    )

    def try_out(sessions: int) -> bool:
        print(f"{sessions} sessions ...", file=sys.stderr, flush=True)
        trial = attempt(
            lambda most: Stage(loaded, engine=settings.engine, max_sessions=most, room=settings.room),
            sessions,
            pace,
            pictures,
        )
        result["trials"].append(trial.as_dict() | judge(trial, settings))
        conclude(result, settings, quiet)
        return result["trials"][-1]["good"]

    if settings.sessions:
        for sessions in settings.sessions:
            try_out(sessions)
    else:
        search(try_out, settings.begin, settings.most)
    return result


def judge(trial: Trial, settings: CapacitySettings) -> dict:
    """`held`, and `good`: held, and first responses came in time."""
    held = trial.holds(settings.max_lag_s)
    in_time = bool(trial.first_response_s) and trial.first_response_s["p95"] < settings.max_first_s
    return {"held": held, "good": held and in_time}


def search(good: Callable[[int], bool], begin: int, most: int) -> int:
    """The highest number that is good, if it is at most `most`: by doubling, then bisection. 0 if `begin` is not."""
    low, high = 0, most + 1
    number = begin
    while number < high:
        if good(number):
            low, number = number, min(2 * number, most) if number < most else high
        else:
            high = number
    while low and high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low


def conclude(result: dict, settings: CapacitySettings, quiet: Neighbours) -> None:
    """Add what the trials so far amount to, and write all."""
    trials, share = result["trials"], quiet.share()
    for name in ("held", "good"):
        result[f"sessions_{name}"] = max((trial["sessions"] for trial in trials if trial[name]), default=0)
    result["end"] = machine()
    reasons = []
    if quiet.load > settings.max_load * len(quiet.cores):
        reasons.append(f"load average {quiet.load:.2f} on {len(quiet.cores)} cores before the start")
    if share is not None and share > settings.max_others:
        reasons.append(f"other programs used {share:.0%} of the cores meanwhile")
    if quiet.gpu_bytes is not None and quiet.gpu_bytes > FOREIGN_BYTES:
        reasons.append(f"other programs held {quiet.gpu_bytes / 1e9:.1f} GB of the GPU's memory at the start")
    reasons += [
        f"at {trial['sessions']} sessions frames were pushed {trial['sender_late_s']:.2f} s late (P95): the senders "
        "were short of CPU, and more sessions might be held without them"
        for trial in trials
        if trial["sender_late_s"] > LATE_S
    ]
    result["verdict"] = {"trusted": not reasons, "reasons": reasons, "others": share, "load_before": quiet.load}
    if settings.output is not None:
        write_atomic(settings.output / f"{NAME}.json", [json.dumps(result, indent=1) + "\n"])


def make_loaded(settings: CapacitySettings) -> Loaded:
    """The checkpoint, or random weights of a shape with the toy world's words."""
    dtype = getattr(torch, settings.precision)
    if settings.model is not None:
        return load(settings.model, variant=settings.variant, device=settings.device, dtype=dtype)
    from swwatch.toy.checkpoint import make_checkpoint

    with tempfile.TemporaryDirectory(prefix="swwatch-bench-") as folder:
        small = {"hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1, "vision_depth": 1, "vision_hidden": 32}
        processor = AutoProcessor.from_pretrained(make_checkpoint(Path(folder) / "words", **small))
    config, markup = shape_config(settings.shape, settings.variant), Markup.of(processor.tokenizer)
    text = config.text_config
    text.vocab_size = max(text.vocab_size, len(processor.tokenizer))
    text.eos_token_id = markup.im_end
    config.video_token_id, config.vision_start_token_id = markup.video, markup.vision_start
    config.swwatch |= {"markup": asdict(markup)}
    model = random_model(config, "sdpa", settings.device, dtype, settings.seed).eval().requires_grad_(False)
    return Loaded(model, processor, Settings.resolve(config.swwatch), markup)


def _encoder(loaded: Loaded) -> FrameEncoder:
    return FrameEncoder(loaded.processor.video_processor, BUDGETS[loaded.settings.pixel_budget])


def _warm_up(loaded: Loaded, settings: CapacitySettings, pictures: np.ndarray) -> Stage:
    """A short session, so that the first trial compiles and allocates nothing. Returns its stage, closed."""
    stage = Stage(loaded, engine=settings.engine, max_sessions=1, room=Room(video_s=8, tokens=8))
    try:
        session = stage.open(question=QUESTION, choose=Greedy(max_new_tokens=8), queue_size=8)
        for i in range(6):
            session.push(i / FRAMES_PER_SECOND, pictures[i % len(pictures)])
        session.end()
        events: list = []
        while not events or not isinstance(events[-1], Ended):
            events += session.read()
        if events[-1].error is not None:
            raise events[-1].error
    finally:
        stage.close()
    return stage


def report(result: dict) -> str:
    """All there is, as Markdown."""
    settings, verdict = result["settings"], result["verdict"]
    return "\n\n".join(
        [
            head(result),
            f"Sessions held with first response P95 under {settings['max_first_s']:g} s: "
            f"**{_most(result, 'good')}** (whatever the first response: {_most(result, 'held')})",
            table(result["trials"]),
            "Verdict: **trusted**." if verdict["trusted"] else f"Not to be trusted: {'; '.join(verdict['reasons'])}.",
            "first response: from the arrival of a session's first step (its second frame) to its first token. lag: "
            "from the arrival of the newest step that a token could see to the token. held: no step lost, every "
            f"session answered, lag P95 at most {settings['max_lag_s']:g} s. cores: CPU cores used by model and "
            "senders. Seconds each.",
        ]
    )


def _most(result: dict, name: str) -> str:
    count, tried = result[f"sessions_{name}"], [trial["sessions"] for trial in result["trials"]]
    if not count:
        return f"fewer than {min(tried)}"
    return f"{count}, the most that was tried" if count == max(tried) else str(count)


def head(result: dict) -> str:
    """Where it was measured, model and pace, one line each."""
    settings = result["settings"]
    model = settings["model"] or f"shape {settings['shape']}, random weights"
    return page.head(
        result,
        {
            "model": f"{model}: {result['parameters']:,} parameters; {settings['variant']}, {settings['precision']}",
            "engine": f"{result['engine']} ({result['why']})",
            "each session": f"{settings['rate']:g} frames of {settings['width']}x{settings['height']} a second, "
            f"{result['video_tokens']} video tokens and {settings['k']} words a step, {settings['session_s']:g} s "
            "long",
        },
    )


def table(trials: list[dict]) -> str:
    """One line for every number of sessions, ascending."""
    heads = ("sessions", "held", "first response P50", "P95", "lag P50", "P95", "P99", "lost", "most queued")
    lines = [(*heads, "tokens/s", "steps/s", "cores", "load")]
    for trial in sorted(trials, key=lambda trial: trial["sessions"]):
        cells = [_shown(trial["first_response_s"], "p50", "p95"), _shown(trial["lag_s"], "p50", "p95", "p99")]
        numbers = [f"{trial['tokens_per_s']:.1f}", f"{trial['steps_per_s']:.1f}", f"{trial['cores']:.1f}"]
        held = "yes" if trial["held"] else f"no: {trial['errors'][0]}" if trial["errors"] else "no"
        lines.append(
            (str(trial["sessions"]), held, *(cell for part in cells for cell in part))
            + (str(trial["lost"]), str(trial["most_queued"]), *numbers, f"{trial['load']:.1f}")
        )
    return markdown(lines)


def _shown(values: dict[str, float], *names: str) -> list[str]:
    return [f"{values[name]:.3f}" if name in values else "n/a" for name in names]
