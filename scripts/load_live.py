"""How many clients a running server holds: real sessions over real sockets, each at 2 frames a second.

    python scripts/load_live.py http://127.0.0.1:8000 --clients 1,2,4 --seconds 30 [--video FILE] [--output FOLDER]

For each number, so many clients open a session (spread over a second), send pictures at the pace of a camera, read
what is said, and stop. A number is held when every client got its session and an answer, no frame or step was lost,
nothing went wrong, and 95 of 100 tokens came within --max-lag-s of the newest picture that they could see. Run it on
another machine than the server's, or take what it uses itself into account. `swwatch bench live` measures the same
without sockets, pictures as files and another process.
"""

import argparse
import asyncio
import io
import json
import os
import shlex
import sys
import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from swwatch.cli import run  # noqa: E402
from swwatch.client import AsyncClient, Dropped, Error, Token, Watched, on_grid  # noqa: E402
from swwatch.data.annotations import write_atomic  # noqa: E402
from swwatch.data.video import FRAMES_PER_STEP  # noqa: E402
from swwatch.errors import UserError  # noqa: E402
from swwatch.metrics.machine import machine  # noqa: E402
from swwatch.metrics.tables import as_aligned_markdown  # noqa: E402
from swwatch.paths import make_folder  # noqa: E402

RATE = 2.0  # frames a second: the model's grid
PICTURES = 16  # different ones, shown in turn
PATIENCE_S = 5.0  # for the last step, when all is sent
PERCENTILES = (50, 95, 99)
LATE_S = 0.1  # a sender that is so late is no camera any more


@dataclass
class Heard:
    """What one client met with. Times in seconds of the wall clock.

    Attributes:
        first_response_s: from sending the frame that completed the first step to the first token's coming.
        lags_s: as the server tells them: emission of a token minus arrival of the newest step that it could see.
        late_s: by how much each frame was sent too late: the load's own fault.
        lost_frames: not sent, since acknowledgements lagged; on their way when a connection broke; refused.
    """

    first_response_s: float | None = None
    lags_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    watched: int = 0
    dropped: int = 0
    lost_frames: int = 0
    errors: list[str] = field(default_factory=list)


async def visit(url: str, token: str | None, pictures: list[bytes], at: float, seconds: float, how: dict) -> Heard:
    """One client from `open` to `stop`; what goes wrong is told in `errors`.

    Args:
        at: when to begin. how: fields of `open`.
    """
    heard, first_step_at = Heard(), []
    await _sleep_until(at)
    client = AsyncClient(url, token=token)
    try:
        await client.open(**how)
        reading = asyncio.create_task(_read(client, heard, first_step_at))
        begin = time.perf_counter()
        for number in range(int(seconds * RATE)):
            await _sleep_until(begin + number / RATE)
            heard.late_s.append(time.perf_counter() - begin - number / RATE)
            if number == 1:
                first_step_at.append(time.perf_counter())
            await client.send(number / RATE, pictures[number % len(pictures)])
            if client.ended:
                break
        await _caught_up(client, heard, int(seconds * RATE) // FRAMES_PER_STEP)
        if not client.ended:
            await client.stop()
        await reading
        counts = client.counts
        heard.lost_frames = counts.skipped + counts.lost + counts.refused
        if client.end_message.reason != "stopped":
            heard.errors.append(f"ended: {client.end_message.reason}")
    except UserError as error:
        heard.errors.append(str(error))
    return heard


async def _caught_up(client: AsyncClient, heard: Heard, steps: int) -> None:
    """Until the server has seen what was sent, or has had time enough: what waits when a session stops is dropped."""
    over = time.perf_counter() + PATIENCE_S
    while heard.watched + heard.dropped < steps and not client.ended and time.perf_counter() < over:
        await asyncio.sleep(0.02)


async def _read(client: AsyncClient, heard: Heard, first_step_at: list[float]) -> None:
    async for event in client:
        match event:
            case Token():
                if heard.first_response_s is None:
                    heard.first_response_s = time.perf_counter() - first_step_at[0]
                heard.lags_s.append(event.lag_s)
            case Watched():
                heard.watched += 1
            case Dropped():
                heard.dropped += event.steps
            case Error():
                heard.errors.append(f"{event.code}: {event.message}")


async def _sleep_until(at: float) -> None:
    await asyncio.sleep(max(0.0, at - time.perf_counter()))


async def attempt(url: str, token: str | None, pictures: list[bytes], clients: int, seconds: float, how: dict) -> dict:
    """So many clients at once -> the figures of a trial."""
    begin = time.perf_counter() + 0.1
    visits = [visit(url, token, pictures, begin + i / clients, seconds, how) for i in range(clients)]
    return figures(await asyncio.gather(*visits), seconds)


def figures(heard: list[Heard], seconds: float) -> dict:
    """What all clients met with, together."""
    first = [one.first_response_s for one in heard if one.first_response_s is not None]
    lags = [lag for one in heard for lag in one.lags_s]
    return {
        "clients": len(heard),
        "first_response_s": percentiles(first),
        "lag_s": percentiles(lags),
        "unanswered": len(heard) - len(first),
        "dropped_steps": sum(one.dropped for one in heard),
        "lost_frames": sum(one.lost_frames for one in heard),
        "tokens_per_s": len(lags) / seconds,
        "steps_per_s": sum(one.watched for one in heard) / seconds,
        "sender_late_s": percentiles([late for one in heard for late in one.late_s]).get("p95", 0.0),
        "errors": [error for one in heard for error in one.errors],
        "load": os.getloadavg()[0],
    }


def percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{p}": float(np.percentile(values, p)) for p in PERCENTILES} if values else {}


def holds(trial: dict, max_lag_s: float) -> bool:
    """Everybody was served, nothing was lost, and words kept up with the video."""
    lost = trial["unanswered"] or trial["dropped_steps"] or trial["lost_frames"] or trial["errors"]
    return not lost and trial["lag_s"]["p95"] <= max_lag_s


def make_pictures(video: Path | None, width: int, height: int, seed: int = 0) -> list[bytes]:
    """JPEG files: of a video, two frames a second, else a square that moves over noise.

    Raises:
        UserError: the video cannot be read.
    """
    if video is not None:
        from swwatch.data.live.sources import frames_of

        frames = [frame for _, frame in islice(on_grid(frames_of(str(video), realtime=False)), PICTURES)]
    else:
        frames = np.random.default_rng(seed).integers(0, 80, (PICTURES, height, width, 3), dtype=np.uint8)
        side = max(4, min(width, height) // 4)
        for number, frame in enumerate(frames):
            left = number * (width - side) // PICTURES
            frame[height // 2 - side // 2 :][:side, left : left + side] = (230, 40, 40)
    return [_jpeg(frame) for frame in frames]


def _jpeg(frame: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(frame).save(out, "JPEG", quality=85)
    return out.getvalue()


def report(result: dict) -> str:
    """Where, what and the table, as Markdown."""
    begin, settings, server = result["begin"], result["settings"], result["server"]
    what = settings["video"] or "{width}x{height}, synthetic".format(**settings)
    lines = {
        "command": f"`{result['command']}`",
        "commit": f"{begin['commit']}, torch {begin['torch']}, transformers {begin['transformers']}",
        "hardware of the clients": ", ".join([*begin["gpus"], f"{begin['cpu']}, {begin['cores']} cores"]),
        "load average": f"{begin['load'][0]} before, {result['end']['load'][0]} after",
        "time": f"{begin['time']} to {result['end']['time']}",
        "server": f"{server['model']}, {settings['variant'] or server['variants'][0]}, "
        f"{settings['schedule'] or server['schedule']}, engine {settings['engine'] or server['engine']}",
        "each client": f"{RATE:g} pictures a second ({what}, {result['picture_bytes']:,} bytes) for "
        f"{settings['seconds']:g} s",
    }
    heads = ("clients", "held", "first response P50", "P95", "lag P50", "P95", "dropped steps", "lost frames")
    rows = [(*heads, "tokens/s", "steps/s", "senders late P95", "load")]
    for trial in result["trials"]:
        first, lag = trial["first_response_s"], trial["lag_s"]
        shown = [f"{times[p]:.3f}" if times else "none" for times in (first, lag) for p in ("p50", "p95")]
        held = "yes" if trial["held"] else f"no{': ' + trial['errors'][0] if trial['errors'] else ''}"
        counts = (str(trial["dropped_steps"]), str(trial["lost_frames"]))
        rates = [f"{trial[name]:.1f}" for name in ("tokens_per_s", "steps_per_s")]
        rows.append(
            (str(trial["clients"]), held, *shown, *counts, *rates)
            + (f"{trial['sender_late_s']:.3f}", f"{trial['load']:.1f}")
        )
    parts = ["\n".join(f"- {key}: {text}" for key, text in lines.items()), as_aligned_markdown(rows)]
    if any(trial["sender_late_s"] > LATE_S for trial in result["trials"]):
        parts.append("**Warning**: frames were sent late: the clients were short of CPU, the server may hold more.")
    return "\n\n".join(parts)


def build_parser() -> argparse.ArgumentParser:
    summary, _, details = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="load_live.py", description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000", help="as the server prints it")
    parser.add_argument("--token", help="what the server wants to be shown [SWWATCH_TOKEN]")
    parser.add_argument(
        "--clients", default="1,2,4", help="numbers to try, one after the other (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each session (default: %(default)s)")
    parser.add_argument("--video", type=Path, help="show this file's first seconds, over and over")
    parser.add_argument("--width", type=int, default=224, help="of synthetic pictures (default: %(default)s)")
    parser.add_argument("--height", type=int, default=224, help="of synthetic pictures (default: %(default)s)")
    parser.add_argument("--variant", help="one of the server's (default: its first)")
    parser.add_argument("--engine", help="one of the server's (default: its own choice)")
    parser.add_argument("--schedule", help="such as wait-k:3 (default: the checkpoint's)")
    parser.add_argument("--max-lag-s", type=float, default=1.0, help="P95 that a held number keeps (default: 1.0)")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write load_live.json and load_live.md here")
    return parser


def main(argv: list[str]) -> int:
    args = build_parser().parse_args(argv)
    if args.seconds < 2 or min(args.width, args.height) < 28:
        raise UserError("a session needs at least 2 seconds, and a picture 28 pixels a side")
    try:
        numbers = [int(number) for number in args.clients.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise UserError(f"--clients {args.clients}: write numbers such as 1,2,4")
    if args.output is not None:
        make_folder(args.output)
    token = args.token or os.environ.get("SWWATCH_TOKEN")
    result = asyncio.run(measure(args, token, numbers))
    result["command"] = shlex.join(["python", "scripts/load_live.py", *without_token(argv)])
    text = report(result)
    print(text)
    if args.output is not None:
        write_atomic(args.output / "load_live.json", [json.dumps(result, indent=1) + "\n"])
        write_atomic(args.output / "load_live.md", [text + "\n"])
    return 0


def without_token(argv: list[str]) -> list[str]:
    """The command as it may be published."""
    shown = [argument.partition("#token=")[0] for argument in argv]
    for place, argument in enumerate(argv):
        if argument.startswith("--token="):
            shown[place] = "--token=..."
        elif place and argv[place - 1] == "--token":
            shown[place] = "..."
    return shown


async def measure(args: argparse.Namespace, token: str | None, numbers: list[int]) -> dict:
    """Try all numbers. Raises UserError: no server, no video."""
    pictures = make_pictures(args.video, args.width, args.height)
    server = await AsyncClient(args.url, token=token).web.info()
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    settings = {name: value for name, value in settings.items() if name not in ("token", "url", "output")}
    kept = ("model", "variants", "schedule", "engine", "limits", "notes")
    result = {
        "settings": settings,
        "server": {name: server[name] for name in kept},
        "picture_bytes": round(sum(map(len, pictures)) / len(pictures)),
        "begin": machine(),
        "trials": [],
    }
    how = {name: getattr(args, name) for name in ("variant", "engine", "schedule") if getattr(args, name)}
    for number in numbers:
        print(f"{number} clients ...", file=sys.stderr, flush=True)
        trial = await attempt(args.url, token, pictures, number, args.seconds, how)
        result["trials"].append(trial | {"held": holds(trial, args.max_lag_s)})
    return result | {"end": machine()}


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
