"""One writer of tables for every program: aligned text for a terminal, Markdown for files.

A table is its lines: rows of cells as text, the headings first. The first `num_names` cells of a row name it and stand
to the left, the others to the right.
"""

import re
from collections.abc import Iterable, Sequence

BAR = re.compile(r"(?<!\\)\|")
Lines = Iterable[Sequence[str]]


def as_text(lines: Lines, num_names: int = 1) -> str:
    """Columns as wide as their widest cell."""
    lines = [list(line) for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = []
    for line in lines:
        cells = [
            cell.ljust(width) if place < num_names else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        shown.append("  ".join(cells))
    return "\n".join(shown)


def as_markdown(lines: Lines, num_names: int = 1, *, numeric: bool = True) -> str:
    """A table of GitHub's Markdown. Bars inside cells are escaped where they are not yet.

    Args:
        numeric: columns behind the names stand to the right.
    """
    first, *rest = _escaped(lines)
    rule = ["---"] * num_names + ["---:" if numeric else "---"] * (len(first) - num_names)
    return "\n".join(f"| {' | '.join(line)} |" for line in (first, rule, *rest))


def as_aligned_markdown(lines: Lines) -> str:
    """Markdown that reads well in a terminal too: columns as wide as their widest cell, all to the left."""
    lines = _escaped(lines)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    shown = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in shown)


def _escaped(lines: Lines) -> list[list[str]]:
    return [[BAR.sub(r"\\|", cell) for cell in line] for line in lines]


def interval(ends: Sequence[float] | None, form: str = ".2f", times: float = 1) -> str:
    """An interval in brackets, a dash where there is none.

    Args:
        form: of each end, such as "+.1f".
        times: what the ends are multiplied by, 100 for percent.
    """
    if ends is None:
        return "-"
    return f"[{', '.join(format(times * end, form) for end in ends)}]"
