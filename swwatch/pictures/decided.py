"""What a SPEAK policy decided, in a stream that `swwatch stream --jsonl` wrote or over a video that is played here:
tokens, silence, and the reason."""

import json
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from textwrap import fill

from swwatch.data.video import iter_steps
from swwatch.engine.door import open_stream
from swwatch.engine.requests import drive
from swwatch.engine.source import FileSource, StepEncoder
from swwatch.engine.trace import Decided, Spoken, Watched
from swwatch.errors import UserError
from swwatch.model.loading import Loaded, load
from swwatch.paths import make_folder
from swwatch.pictures.plots import panels, save, sheet
from swwatch.policies.speak import SPEAK, parse_schedule

SAID, SILENT = "#D55E00", "#999999"  # words are as in the other pictures
WHY = ("#0072B2", "#009E73")  # numbers that decided
A_ROW = 3  # pictures of a sheet
MOST_A_STEP = 32  # tokens of a video that is played, on average
# of the rows whose defaults show little on a short clip, or under random weights
EXAMPLES = {
    "change": "change:6:share=0.3",
    "pace": "pace:3:most=9",
    "sved": "sved:6",
    "gate": "gate:6:floor=0.0006",
    "head": "head:6:floor=0.5",
}


def show_decided(settings) -> int:
    """Draw it. `settings` are command.InspectSettings."""
    lines = read(settings.decided)
    path = settings.out / f"{settings.decided.stem}.png"
    draw(lines, path)
    print(path)
    return 0


def show_played(settings) -> int:
    """Draw how one schedule, or each, speaks over a video. `settings` are command.InspectSettings."""
    variant = None if settings.variant == "all" else settings.variant
    if settings.sheet is None:
        schedule = parse_schedule(settings.schedule)
        path = settings.out / f"speak_{schedule.name}.png"
        loaded = load(settings.model, variant=variant)
        draw(played(loaded, settings.video, str(schedule), settings.steps), path)
    else:
        path = settings.out / "speak.png"
        rows = [EXAMPLES.get(name, str(kind())) for name, kind in SPEAK.items()]
        once = cache(load)  # most rows take the same model
        draw_sheet([(row, *attempt(settings, variant, row, once)) for row in rows], path)
    print(path)
    return 0


def attempt(settings, variant: str | None, schedule: str, load=load) -> tuple[list[dict], str]:
    """What was told in a stream by a schedule, or why there can be none. A model that was never trained for one that
    is learned takes it as it is."""
    try:
        learned = {"schedule": schedule} if parse_schedule(schedule).learned else {}
        loaded = load(settings.model, variant=variant, **learned)
        return played(loaded, settings.video, schedule, settings.steps), ""
    except UserError as error:
        return [], str(error)


def played(loaded: Loaded, video: Path, schedule: str, most: int) -> list[dict]:
    """What `swwatch stream --jsonl` would tell of the first steps of a video, up to the words of the last of them."""
    session = open_stream(loaded, schedule=schedule, key=video.stem, limit=most * MOST_A_STEP)
    steps = islice(iter_steps(video, max_frames=None, fps=loaded.settings.fps), most)
    steps = [replace(step, last=False) for step in steps]
    arriving = (replace(step, arrival_s=session.arrival_s(step.step, step.arrival_s)) for step in steps)
    lines = []
    for event in drive(loaded.model, session.run(FileSource(arriving, StepEncoder(loaded), session.clock))):
        if isinstance(event, Watched | Decided | Spoken) and event.step >= len(steps):
            break  # the video is over, and the rest of the answer is as long as it may be
        match event:
            case Watched():
                lines.append({"event": "watched", "step": event.step, "arrival_s": steps[event.step].arrival_s})
            case Decided():
                why = {"num_tokens": event.num_tokens, "why": event.why}
                lines.append({"event": "decided", "step": event.step} | why)
            case Spoken():
                lines.append({"step": event.step, "token_id": event.token_id})
    return lines


def read(path: Path) -> list[dict]:
    """The events of a file.

    Raises:
        UserError: it cannot be read, or nothing was decided in it.
    """
    try:
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        num_decided = sum(line.get("event") == "decided" for line in lines)
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"cannot read {path} as what swwatch stream --jsonl writes: {error}") from error
    if not num_decided:
        raise UserError(
            f"nothing was decided in {path}: give what swwatch stream --jsonl wrote under gate, change, ..."
        )
    return lines


def draw(lines: list[dict], path: Path) -> None:
    """Write one picture: over the seconds, how many tokens were said, and the numbers that decided, where any did."""
    decided = decisions_of(lines)
    figure, axes = panels(2 if decided else 1, 1, (8, 2.6 if decided else 1.8), sharex=True)
    draw_said(axes[0], lines)
    axes[0].set_ylabel("tokens said")
    if decided:
        draw_why(axes[1], lines, 8)
    axes[-1].set_xlabel("seconds of the video")
    make_folder(path.parent)
    save(figure, path)


def arrivals_of(lines: list[dict]) -> dict[int, float]:
    """Step -> when it arrived, seconds."""
    return {line["step"]: line["arrival_s"] for line in lines if line.get("event") == "watched"}


def decisions_of(lines: list[dict]) -> list[dict]:
    """What was decided at steps that arrived."""
    arrivals = arrivals_of(lines)
    return [line for line in lines if line.get("event") == "decided" and line["step"] in arrivals]


def draw_why(axis, lines: list[dict], size: float) -> None:
    """The numbers that decided, with a legend in letters of this size."""
    decided, arrivals = decisions_of(lines), arrivals_of(lines)
    for name, colour in zip(decided[0]["why"], WHY, strict=False):
        values = [line["why"][name] for line in decided]
        values = [float("nan") if value is None else value for value in values]
        seconds = [arrivals[line["step"]] for line in decided]
        axis.plot(seconds, values, ".-", color=colour, ms=size / 2, lw=size / 8, label=name)
    axis.legend(fontsize=size, loc="center right")


def draw_said(axis, lines: list[dict]) -> None:
    """A bar of tokens for each step, and a grey mark where it was silent."""
    arrivals, said = arrivals_of(lines), [line["step"] for line in lines if "token_id" in line]
    counts, seconds = [said.count(step) for step in arrivals], list(arrivals.values())
    width = min(b - a for a, b in zip(seconds, seconds[1:], strict=False)) if len(seconds) > 1 else 1.0
    axis.bar(seconds, counts, width * 0.9, color=SAID)
    silent = [second for second, count in zip(seconds, counts, strict=True) if not count]
    if silent:  # of no marks that may reach over the frame matplotlib cannot tell how much room they need
        axis.plot(silent, [0] * len(silent), "s", color=SILENT, ms=3, clip_on=False)
    axis.set_ylim(0, max([1, *counts]) * 1.05)


def draw_sheet(rows: list[tuple[str, list[dict], str]], path: Path) -> None:
    """Write one picture of all. rows: (schedule, what was told, why nothing was)."""
    figure, axes = sheet(len(rows), A_ROW, (8.5, 1.8 * -(-len(rows) // A_ROW)), sharex=True)
    for axis, (schedule, lines, refused) in zip(axes, rows, strict=True):
        axis.set_title(schedule, fontsize=8)
        axis.tick_params(labelsize=7)
        draw_said(axis, lines)
        if decisions_of(lines):
            other = axis.twinx()
            other.tick_params(labelsize=5)
            draw_why(other, lines, 5)
        axis.text(0.5, 0.5, fill(refused, 40), ha="center", va="center", fontsize=6, transform=axis.transAxes)
    figure.supxlabel("seconds of the video", fontsize=8)
    figure.supylabel("tokens said", fontsize=8)
    make_folder(path.parent)
    save(figure, path)
