"""Numbers of live sessions, tried one after the other."""

import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoProcessor

from swwatch.bench.live.page import report
from swwatch.bench.live.settings import LATE_S, LiveBenchSettings
from swwatch.bench.live.trial import QUESTION, attempt
from swwatch.bench.models import num_parameters, random_session_model, shape_config
from swwatch.bench.record import Record
from swwatch.data.budget import BUDGETS
from swwatch.data.pixels import FrameEncoder
from swwatch.data.prompt import Markup
from swwatch.data.video import FRAMES_PER_STEP
from swwatch.live.stage import Capacity, Ended, Stage
from swwatch.model.loading import Loaded, load
from swwatch.model.settings import Settings

PICTURES = 8  # different ones, shown in turn


def measure(settings: LiveBenchSettings, command: str) -> dict:
    """Try numbers of sessions. The result is written after each of them.

    Args:
        settings: settled.
    """
    record = Record("live", settings, command, report)
    loaded = make_loaded(settings)
    random = np.random.default_rng(settings.seed)
    pictures = random.integers(0, 255, (PICTURES, settings.height, settings.width, 3), dtype=np.uint8)
    stage = _warm_up(loaded, settings, pictures)
    encoder = FrameEncoder(loaded.processor.video_processor, BUDGETS[loaded.settings.pixel_budget])
    result = record.result
    result |= {
        "engine": stage.engine,
        "why": stage.why,
        "parameters": num_parameters(loaded.model),
        "video_tokens": encoder.tokens_per_step(settings.height, settings.width, None),
        "trials": [],
    }

    def open_stage(most: int) -> Stage:
        return Stage(loaded, engine=settings.engine, max_sessions=most, capacity=capacity_of(settings))

    def good(sessions: int) -> bool:
        record.say(f"{sessions} sessions")
        trial = attempt(open_stage, sessions, settings, pictures)
        result["trials"].append(trial | judge(trial, settings))
        for name in ("held", "good"):
            result[f"sessions_{name}"] = max((one["sessions"] for one in result["trials"] if one[name]), default=0)
        record.save(doubts=late_senders(result["trials"]))
        return result["trials"][-1]["good"]

    if settings.sessions:
        for sessions in settings.sessions:
            good(sessions)
    else:
        search(good, settings.begin, settings.most)
    return result


def capacity_of(settings: LiveBenchSettings) -> Capacity:
    """What a session here comes to: on a GPU memory is set aside for it, and many must fit in."""
    steps = math.ceil(settings.session_s / settings.step_s)
    return Capacity(math.ceil(settings.session_s), settings.k * steps)


def judge(trial: dict, settings: LiveBenchSettings) -> dict:
    """`held`: nothing was lost, nobody was left without an answer, and words kept up with the video; `good`: held, and
    first responses came in time."""
    lost = trial["lost"] or trial["unanswered"] or trial["errors"]
    held = not lost and trial["lag_s"].get("p95", math.inf) <= settings.max_lag_s
    return {"held": held, "good": held and trial["first_response_s"].get("p95", math.inf) < settings.max_first_s}


def late_senders(trials: list[dict]) -> list[str]:
    """Where the benchmark itself was too slow."""
    return [
        f"at {trial['sessions']} sessions frames were pushed {trial['sender_late_s']:.2f} s late (P95): the senders "
        "were short of CPU, and more sessions might be held without them"
        for trial in trials
        if trial["sender_late_s"] > LATE_S
    ]


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


def make_loaded(settings: LiveBenchSettings) -> Loaded:
    """The checkpoint, or random weights of a shape with the toy world's words."""
    if settings.model is not None:
        how = {"fps": settings.fps, "other_fps": True, "device": settings.device, "pack": settings.pack}
        how |= {"dtype": getattr(torch, settings.precision), "quantize": settings.quantize}
        loaded = load(settings.model, variant=settings.variant, **how)
        return replace(loaded, settings=settings.put_on(loaded.settings, settings.model))
    from swwatch.toy.checkpoint import make_checkpoint

    with tempfile.TemporaryDirectory(prefix="swwatch-bench-") as folder:
        small = {"hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1, "vision_depth": 1, "vision_hidden": 32}
        processor = AutoProcessor.from_pretrained(make_checkpoint(Path(folder) / "words", **small))
    config = shape_config(settings.shape, settings.variant, settings.fps)
    markup = Markup.of(processor.tokenizer, step_s=settings.step_s)
    text = config.text_config
    text.vocab_size = max(text.vocab_size, len(processor.tokenizer))
    text.eos_token_id = markup.im_end
    config.video_token_id, config.vision_start_token_id = markup.video, markup.vision_start
    config.swwatch |= {"markup": asdict(markup)}
    model = random_session_model(config, settings)
    return Loaded(model, processor, settings.put_on(Settings.resolve(config.swwatch)), markup)


def _warm_up(loaded: Loaded, settings: LiveBenchSettings, pictures: np.ndarray) -> Stage:
    """A short session, so that the first trial compiles and allocates nothing. Returns its stage, closed."""
    capacity = Capacity(video_s=math.ceil(8 * settings.step_s), tokens=8)
    stage = Stage(loaded, engine=settings.engine, max_sessions=1, capacity=capacity)
    try:
        session = stage.open(question=QUESTION, limit=8, queue_size=8)
        for number in range(6):
            session.push(number * settings.step_s / FRAMES_PER_STEP, pictures[number % len(pictures)])
        session.end()
        events: list = []
        while not events or not isinstance(events[-1], Ended):
            events += session.read()
        if events[-1].error is not None:
            raise events[-1].error
    finally:
        stage.close()
    return stage
