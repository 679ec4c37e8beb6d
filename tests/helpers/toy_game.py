"""Words of a game that lasts for 44 seconds, and files of rows."""

import json
from pathlib import Path

GAME_S = 44
SAID = "a red circle moves left and now a blue square moves right past it".split()


def words_between(start: float, end: float, per_second: float = 2.0) -> list:
    """Rows of [start, end, word], evenly."""
    count = round((end - start) * per_second)
    return [[start + i / per_second, start + (i + 0.8) / per_second, SAID[i % len(SAID)]] for i in range(count)]


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
