"""What the pages of all streaming benchmarks share: where a run took place, whether to trust it, drawing it again."""

import json
from collections.abc import Callable
from pathlib import Path

from swwatch.data.annotations import write_atomic
from swwatch.errors import UserError
from swwatch.paths import make_folder


def head(result: dict, more: dict[str, str]) -> str:
    """Command, commit, hardware, load and clocks, and what a benchmark adds, one line each.

    Args:
        result: with command, settings, begin, end and threads.
    """
    begin, end = result["begin"], result["end"]
    hardware = ", ".join(begin["gpus"]) if result["settings"]["device"] == "cuda" else begin["cpu"]
    lines = {
        "command": f"`{result['command']}`",
        "commit": f"{begin['commit']}, torch {begin['torch']}, transformers {begin['transformers']}",
        "hardware": f"{hardware}; {begin['cores']} CPU cores, {result['threads']} threads used",
        "time": f"{begin['time']} to {end['time']}",
        "load average": f"{begin['load'][0]} before, {end['load'][0]} after",
        "clocks": " before, ".join("; ".join(where["clocks"]) or "not known" for where in (begin, end)) + " after",
    }
    return "\n".join(f"- {key}: {text}" for key, text in (lines | more).items())


def judged(verdict: dict, figures: str = "these figures") -> str:
    """Whether the machine was quiet enough, by which rule."""
    if verdict["trusted"]:
        return f"Verdict: **trusted**. The rule: {verdict['rule']}."
    reasons = "; ".join(verdict["reasons"])
    return f"Verdict: **the machine was too busy to trust {figures}**: {reasons}. The rule: {verdict['rule']}."


def again(
    kind: str, file: Path, output: Path | None, report: Callable[[dict], str], draw: Callable[[dict, Path], object]
) -> int:
    """Tables and figures of a file of earlier, beside it or in another folder.

    Args:
        kind: of `swwatch bench`.
        report: what was measured -> Markdown; draw: writes figures into a folder.
    Raises:
        UserError: not a file of this benchmark.
    """
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        text = report(result)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not a file that `swwatch bench {kind}` wrote: {error!r}") from error
    folder = output or file.parent
    make_folder(folder)
    print(text)
    write_atomic(folder / f"bench_{kind}.md", [text + "\n"])
    draw(result, folder)
    print(f"\nwritten to {folder}")
    return 0
