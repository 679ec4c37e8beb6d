"""What a SPEAK policy decided in a stream that `swwatch stream --jsonl` wrote: tokens, silence, and the reason."""

import json
from pathlib import Path

from swwatch.errors import UserError
from swwatch.paths import make_folder
from swwatch.pictures.plots import panels, save

SAID = "#D55E00"  # as words are in the other pictures


def show_decided(settings) -> int:
    """Draw it. `settings` are command.InspectSettings."""
    lines = read(settings.decided)
    path = settings.out / f"{settings.decided.stem}.png"
    draw(lines, path)
    print(path)
    return 0


def read(path: Path) -> list[dict]:
    """The events of a file.

    Raises:
        UserError: it cannot be read, or nothing was decided in it.
    """
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        num_decided = sum(line.get("event") == "decided" for line in lines)
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"cannot read {path} as what swwatch stream --jsonl writes: {error}") from error
    if not num_decided:
        raise UserError(
            f"nothing was decided in {path}: give what swwatch stream --jsonl wrote under gate, change, ..."
        )
    return lines


def draw(lines: list[dict], path: Path) -> None:
    """Write one picture: over the seconds, how many tokens were said, and the numbers that decided."""
    arrivals = {line["step"]: line["arrival_s"] for line in lines if line.get("event") == "watched"}
    decided = [line for line in lines if line.get("event") == "decided" and line["step"] in arrivals]
    said = [line["step"] for line in lines if "token_id" in line]
    seconds = [arrivals[line["step"]] for line in decided]
    width = min(b - a for a, b in zip(seconds, seconds[1:], strict=False)) if len(seconds) > 1 else 1.0
    figure, (above, below) = panels(2, 1, (8, 2.6), sharex=True)
    above.bar(seconds, [said.count(line["step"]) for line in decided], width * 0.9, color=SAID)
    above.set_ylabel("tokens said")
    for name in decided[0]["why"]:
        values = [line["why"][name] for line in decided]
        below.plot(seconds, [float("nan") if value is None else value for value in values], ".-", label=name)
    below.legend(fontsize=8, loc="center right")
    below.set_xlabel("seconds of the video")
    make_folder(path.parent)
    save(figure, path)
