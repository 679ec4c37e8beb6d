"""All modes of the endless benchmark on one set of weights, one after the other."""

import statistics
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from swwatch.bench.endless.modes import MODES, Mode, mode_of
from swwatch.bench.endless.page import report
from swwatch.bench.endless.sessions import Film, Tape, open_session, play
from swwatch.bench.endless.settings import EndlessBenchSettings
from swwatch.bench.inputs import random_steps
from swwatch.bench.models import loaded_model, num_parameters, streaming_model
from swwatch.bench.record import Record
from swwatch.data.video import FRAMES_PER_STEP, iter_steps
from swwatch.data.video import measure as num_frames
from swwatch.engine.source import Step, StepEncoder
from swwatch.errors import UserError
from swwatch.model.checks import saved_settings

if TYPE_CHECKING:
    from swwatch.model.loading import Loaded

POINTS = 300  # of a curve at most
TIMES = ("step_s", "cpu_s", "token_s", "gap_s")
COLUMNS = ("at_s", *TIMES, "fed", "held", "cache", "host", "memory", "position")


@torch.no_grad()
def measure(settings: EndlessBenchSettings, command: str) -> dict:
    """Measure what is asked for, and write it after every mode.

    Args:
        settings: settled.
    Returns:
        What is written to JSON: settings, machine, `modes` (name -> what, curve, reached_s, ended) and the verdict.
    """
    record = Record("endless", settings, command, report, indent=None)
    result = record.result
    result["modes"] = {}
    spreads: list[tuple[str, float | None]] = []
    with record.until_stopped():
        loaded = settings.model and loaded_checkpoint(settings)
        model = loaded.model if loaded else streaming_model(settings, settings.shape)
        result["parameters"] = num_parameters(model)
        if settings.video is not None:
            settings, result["video_tokens"] = measured_video(settings, loaded)
            result["settings"]["seconds"] = settings.seconds
        else:
            vision = model.config.vision_config
            pictures = random_steps(vision, settings.video_tokens, 8, settings.seed, settings.device)

        def run(mode: Mode, settings: EndlessBenchSettings) -> tuple[list[dict], str | None]:
            tape = (
                Film(steps_of(settings, loaded), settings.step_s)
                if settings.video is not None
                else Tape(pictures, settings.step_s)
            )
            session = open_session(mode, model, settings, loaded)
            return play(session, tape, settings, own_turns=bool(loaded and mode.system))

        own = [name for name in settings.modes if name not in MODES]
        for name in [*(name for name in MODES if name in settings.modes), *own]:
            mode = mode_of(name)
            record.say(f"{name}: {mode.what}")
            run(mode, replace(settings, seconds=5))  # not counted
            seconds, ended = run(mode, settings)
            reached = seconds[-1]["at_s"] if seconds else 0.0
            curve = thinned(seconds)
            result["modes"][name] = {"what": mode.what, "reached_s": reached, "ended": ended, "curve": curve}
            if mode.constant and settings.keep is None:
                spreads.append((name, spread([second["step_s"] for second in seconds[len(seconds) // 2 :]])))
            record.save(spreads)
    return record.save(spreads)


def loaded_checkpoint(settings: EndlessBenchSettings) -> "Loaded":
    """The checkpoint; one that names no variant is loaded as that of the modes serial and fused."""
    named = saved_settings(settings.model).get("variant")
    return loaded_model(settings, settings.model, None if named else settings.variant)


def measured_video(settings: EndlessBenchSettings, loaded: "Loaded") -> tuple[EndlessBenchSettings, int]:
    """The settings with no more seconds than the video has, and the tokens of one.

    Raises:
        UserError: the video cannot be read, or is too short.
    """
    num_steps = num_frames(settings.video, max_frames=None, fps=settings.fps)[0] // FRAMES_PER_STEP
    seconds = int(num_steps * settings.step_s)
    if seconds < 5:
        raise UserError(f"{settings.video} has {seconds} s: 5 are the least")
    first = next(steps_of(settings, loaded))
    merge = loaded.model.config.vision_config.spatial_merge_size
    tokens = int(first.grid_thw.prod()) // merge**2
    return replace(settings, seconds=min(settings.seconds, seconds)), tokens


def steps_of(settings: EndlessBenchSettings, loaded: "Loaded") -> Iterator[Step]:
    """The video's steps, as the checkpoint's own budget shows them."""
    encode = StepEncoder(loaded)
    for step in iter_steps(settings.video, max_frames=None, fps=settings.fps):
        encoded = encode(step)
        yield replace(encoded, pixel_values=encoded.pixel_values.to(settings.device))


def thinned(seconds: list[dict]) -> dict[str, list]:
    """Seconds as columns, neighbours taken together where there are many: times are medians, sizes the largest."""
    size = -(-len(seconds) // POINTS) or 1
    columns: dict[str, list] = {}
    for name in COLUMNS:
        take = statistics.median if name in TIMES else max
        values = [second[name] for second in seconds]
        columns[name] = [_number(take, values[at : at + size]) for at in range(0, len(values), size)]
    return columns


def spread(times: list[float]) -> float | None:
    """Interquartile range by median of step times that ought to be alike; None for fewer than 4."""
    if len(times) < 4:
        return None
    low, middle, high = statistics.quantiles(times, n=4)
    return (high - low) / middle


def _number(take, values: list):
    values = [value for value in values if value is not None]
    if not values:
        return None
    taken = take(values)
    return round(taken, 7) if isinstance(taken, float) else taken
