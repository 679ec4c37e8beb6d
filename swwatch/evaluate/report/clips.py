"""What the page's clip browser shows: captions with their tokens, scores, and small pictures of each second."""

import base64
import io
import math
import sys
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from swwatch.data.video import iter_steps
from swwatch.errors import UserError
from swwatch.evaluate.report.gather import ReportedRun
from swwatch.rules.schedule import FPS, seconds_of_step
from swwatch.rules.systems import ELLIPSIS

FRAME_HEIGHT = 96  # pixels
JPEG_QUALITY = 70
LEFT_OUT = "Left out to keep this page small (--frames N takes more)."


def clip_data(runs: list[ReportedRun]) -> list[dict]:
    """The clips of all runs, in the order in which the runs name them, without pictures.

    Returns:
        Objects with id, reference, task, seconds (None where unknown), events (lines of text) and runs: one entry a
        run, None where that run has no caption of the clip, else {"text", "step_s", "tokens", "scores", "times"}. A
        token is [text, step, newest visible step, emission, staleness], the last two in milliseconds. tokens is None
        where there is no trace, or where the trace says another text than the predictions (edited by hand).
    """
    clips = []
    for key in dict.fromkeys(key for run in runs for key in run.rows):
        rows = [run.rows[key] for run in runs if key in run.rows]
        record = next((run.records[key] for run in runs if key in run.records), {})
        clips.append(
            {
                "id": key,
                "reference": next(
                    filter(None, [row.get("annotation") for row in rows]), record.get("human_caption", "")
                ),
                "task": str(record.get("task") or rows[0].get("task") or ""),
                "seconds": record.get("video_duration_in_s"),
                "events": [_event(event) for event in _list(record.get("events"))],
                "runs": [_caption(run, key) if key in run.rows else None for run in runs],
            }
        )
    return clips


def embed_frames(
    clips: list[dict], runs: list[ReportedRun], *, img_root: Path | None, max_clips: int | None, max_bytes: int
) -> str:
    """Give clips their `frames` (one data URI a step), or say in `no_frames` why there are none.

    Args:
        clips: of `clip_data`; changed in place, in their order, until a limit is met.
        max_clips: the most clips that get pictures; None leaves it to `max_bytes`.
        max_bytes: the most text that all pictures together may take; counts only without `max_clips`.
    Returns:
        One sentence on what was left out; "" when nothing was.
    """
    most, budget = (len(clips), max_bytes) if max_clips is None else (max_clips, math.inf)
    done = missing = 0
    for clip in tqdm(clips, desc="frames", unit="clip", mininterval=0.5 if sys.stderr.isatty() else 30):
        if done >= most or budget <= 0:
            clip["no_frames"] = LEFT_OUT
            continue
        try:
            run = next(run for run in runs if clip["id"] in run.rows)
            frames = read_frames(run.video(clip["id"], img_root), fps_of(run))
        except UserError as error:
            clip["no_frames"] = str(error)
            missing += 1
            continue
        budget -= sum(map(len, frames))
        if budget < 0:
            clip["no_frames"] = LEFT_OUT
            continue
        clip |= {"frames": frames, "step_s": seconds_of_step(fps_of(run))}
        done += 1
    note = f"{done} of {len(clips)} clips are shown with their frames"
    if missing:
        note += f"; the videos of {missing} could not be read"
    if left_out := len(clips) - done - missing:
        note += f"; {left_out} were left out to keep this page small (--frames N takes more)"
    return "" if done == len(clips) else f"{note}."


def fps_of(run: ReportedRun) -> float:
    """Frames a second that a run has watched."""
    return run.facts.get("settings", {}).get("fps", FPS)


def read_frames(path: Path, fps: float) -> list[str]:
    """One picture for each step of a video, its second frame (the step is complete then), as JPEG data URIs.

    Raises:
        UserError: the video cannot be read.
    """
    return [_jpeg(step.frames[-1]) for step in iter_steps(path, max_frames=None, fps=fps)]


def _jpeg(pixels) -> str:
    picture = Image.fromarray(pixels)
    picture.thumbnail((4 * FRAME_HEIGHT, FRAME_HEIGHT))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def _caption(run: ReportedRun, key: str) -> dict:
    text, tokens = run.rows[key]["result"], run.tokens.get(key)
    if tokens is not None and _words("".join(token["text"] for token in tokens)) != _words(text):
        tokens = None
    return {
        "text": text,
        "step_s": seconds_of_step(fps_of(run)),
        "tokens": None if tokens is None else [_token(token) for token in tokens],
        "scores": {name: round(value, 4) for name, value in run.clip_scores(key).items()},
        "times": {name: round(value, 4) for name, value in run.clip_times(key).items()},
    }


def _words(text: str) -> list[str]:
    """The words of a caption, without what chat systems say for silence."""
    return text.replace(ELLIPSIS, " ").split()


def _token(token: dict) -> list:
    emitted_ms = round(1000 * token["t_emit_s"])
    stale_ms = round(1000 * (token["t_emit_s"] - token["t_frame_s"]))
    return [token["text"], token["step"], token["newest_visible_step"], emitted_ms, stale_ms]


def _event(event: object) -> str:
    """An event's times and words, whatever the data set calls them."""
    if not isinstance(event, dict):
        return str(event)
    words = " ".join(str(value) for name, value in event.items() if value and not name.endswith("_s"))
    times = [f"{event[name]:g}" for name in ("start_s", "end_s") if isinstance(event.get(name), int | float)]
    return f"{' to '.join(times)} s: {words}" if times else words


def _list(value: object) -> list:
    return value if isinstance(value, list) else []
