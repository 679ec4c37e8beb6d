"""Tiny games in the official form of both benchmarks of `swwatch commentary`: coloured shapes, one after another.

`python -m swwatch.toy.game OUT` writes eval_all_metadata.jsonl (Inf-Streams-Eval: all words of a game),
LiveSports-3K-CC.json (events of the same games, with what was said in and before them) and videos/, and prints the
commands that comment on them.
"""

import argparse
import json
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

from swwatch.errors import UserError, run
from swwatch.toy.clips import encode, write_whole
from swwatch.toy.commentary import transcript
from swwatch.toy.recipe import check_empty
from swwatch.toy.world import Scene, make_scene

START_S = 20  # where commenting on a toy game begins; the benchmark's 1000 s would be a long wait
EVENT_S, EVERY_S, BEFORE_S = 12, 40, 20  # of events: how long, how far apart, and what counts as said before
FRAME_RATE = 10


def write_games(root: Path, *, games: int = 2, seconds: int = 220, seed: int = 0) -> tuple[Path, Path]:
    """Write both.

    Returns:
        The annotation files of Inf-Streams-Eval and of LiveSports-3K CC; the videos lie in `root`/videos.
    Raises:
        UserError: `root` is not empty, or games too few or too short for an event.
    """
    check_empty(root)
    if games < 1 or seconds < START_S + EVENT_S:
        raise UserError(f"{games} games of {seconds} s: one of {START_S + EVENT_S} s is the least")
    (root / "videos").mkdir(parents=True)
    whole, events = [], []
    for index in range(games):
        game, name = make_game(seed, index, seconds), f"toy{index}"
        write_whole(root / "videos" / f"{name}.mp4", encode(game, FRAME_RATE))
        words = transcript(game.events)
        whole.append({"video": f"{name}.mp4", "content": words})
        events += _events(name, words, seconds)
    long, short = root / "eval_all_metadata.jsonl", root / "LiveSports-3K-CC.json"
    write_whole(long, "".join(json.dumps(row) + "\n" for row in whole).encode())
    write_whole(short, json.dumps(events, indent=1).encode() + b"\n")
    return long, short


def make_game(seed: int, index: int, seconds: int) -> Scene:
    """Scenes one behind the other; the last one is cut at the end of an event."""
    tracks, begin_s = [], 0.0
    for number in count():
        scene = make_scene(seed, 1000 * index + number, split="test")
        for track in scene.tracks:
            event = replace(track.event, start_s=begin_s + track.event.start_s, end_s=begin_s + track.event.end_s)
            if event.end_s > seconds:
                return Scene(scene.level, tuple(tracks))
            tracks.append(replace(track, event=event))
        begin_s += scene.duration_s


def _events(name: str, words: list[list], seconds: int) -> list[dict]:
    """Rows with the columns of the public file."""
    rows = []
    for number, begin in enumerate(range(START_S, seconds - EVENT_S + 1, EVERY_S), start=1):
        end = begin + EVENT_S
        said = [word for word in words if begin < word[1] <= end]
        before = [word for word in words if begin - BEFORE_S < word[1] <= begin]
        row = {"video_id": name, "url": "", "event_id": number, "begin": begin, "end": end, "event_type": 1}
        row |= {"video": f"{name}.mp4", "class": "Shapes", "event_title": "Shapes that move."}
        row |= {"event_asr": said, "event_asr_text": _text(said), "preasr": before, "preasr_text": _text(before)}
        rows.append(row)
    return rows


def _text(words: list[list]) -> str:
    return " ".join(word for _, _, word in words)


def commands(root: Path, long: Path, short: Path) -> list[str]:
    """What to try on them: two ways to comment on games, one on events, and judges of both."""
    program, model, start = "swwatch commentary", "--model CHECKPOINT --system", f"--begin {START_S}"
    given = {task: f"--task {task} --data {path}" for task, path in (("inf-streams", long), ("livesports-cc", short))}
    games, events = (f"{where} --videos {root / 'videos'}" for where in given.values())
    endpoint = "--model JUDGE --base-url URL"
    return [
        f"{program} generate {games} {start} {model} streamingvlm --output {root / 'whole.jsonl'}",
        f"{program} generate {games} {start} --chunk 50 {model} streamingvlm --output {root / 'chunks.jsonl'}",
        f"{program} judge {root / 'whole.jsonl'} --other {root / 'chunks.jsonl'} {given['inf-streams']} "
        f"{start} {endpoint}",
        f"{program} generate {events} {model} streamingvlm --output {root / 'events_a.jsonl'}",
        f"{program} generate {events} {model} livecc --output {root / 'events_b.jsonl'}",
        f"{program} judge {root / 'events_a.jsonl'} --other {root / 'events_b.jsonl'} {given['livesports-cc']} "
        f"{endpoint}",
    ]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m swwatch.toy.game", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write to: new or empty")
    parser.add_argument("--games", type=int, default=2, help="how many (%(default)s)")
    parser.add_argument("--seconds", type=int, default=220, help="of each: two segments of 100 s (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the games (%(default)s)")
    args = parser.parse_args(argv)
    print("# for CHECKPOINT see `swwatch toy model`; JUDGE is a model at URL, any OpenAI-compatible endpoint")
    for line in commands(args.out, *write_games(args.out, games=args.games, seconds=args.seconds, seed=args.seed)):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
