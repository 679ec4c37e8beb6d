"""Scores as a table in the paper's column order, beside the paper's own rows (arXiv 2601.06843).

All values are times 100, but Fluency, which is a judge's grade from 1 to 5.
"""

from collections.abc import Mapping, Sequence

from swwatch.metrics.tables import as_text

COLUMNS = ("CIDEr", "BLEU-1", "BLEU-4", "METEOR", "ROUGE-L", "BLEURT", "Fluency")
AS_IT_IS = frozenset({"Fluency"})
_VIDEO_DESCRIPTION = {  # on PE-Video: variant -> size -> the values of COLUMNS; there is no fluency for 7B
    "origin": {
        "3B": (35.44, 42.36, 14.45, 29.18, 30.47, 53.21, 4.84),
        "7B": (42.42, 40.43, 12.46, 27.79, 32.72, 53.06),
    },
    "batch": {
        "3B": (30.86, 40.26, 13.64, 28.49, 34.12, 53.19, 4.93),
        "7B": (38.13, 39.58, 11.97, 27.20, 31.58, 52.63),
    },
    "interleave": {
        "3B": (20.08, 44.40, 14.41, 27.17, 34.95, 44.11, 2.84),
        "7B": (46.94, 49.02, 16.13, 32.24, 36.29, 44.78),
    },
    "overlap": {
        "3B": (26.32, 42.14, 12.78, 27.92, 32.29, 50.62, 4.48),
        "7B": (47.49, 43.85, 12.10, 28.05, 31.86, 51.71),
    },
    "group": {
        "3B": (12.52, 26.32, 7.42, 30.03, 27.37, 51.53, 4.56),
        "7B": (37.78, 41.01, 11.25, 27.48, 30.52, 51.18),
    },
    "gap": {
        "3B": (28.11, 40.42, 11.52, 29.13, 30.69, 51.20, 4.85),
        "7B": (25.70, 39.09, 9.85, 28.71, 28.82, 51.16),
    },
}
_FUNQA = {  # mean of the six sub-tasks
    "origin": {"3B": (6.98, 34.47, 4.74, 19.67, 22.43, 41.34, 4.70)},
    "batch": {"3B": (7.25, 35.23, 5.13, 19.50, 22.98, 42.04, 4.52)},
    "interleave": {"3B": (3.00, 21.95, 1.71, 13.03, 18.00, 31.22, 3.72)},
    "overlap": {"3B": (4.22, 33.40, 3.68, 20.23, 19.61, 37.38, 3.98)},
    "group": {"3B": (3.22, 31.32, 3.32, 21.82, 18.96, 41.16, 4.13)},
    "gap": {"3B": (3.99, 30.95, 2.48, 17.58, 19.33, 37.25, 4.61)},
}
_PAPER = {"pe-video": _VIDEO_DESCRIPTION, "funqa": _FUNQA}
_DISTURBED = {  # BLEURT on PE-Video, trained with K = 3: variant -> tested with K = 3, tested with random K
    "interleave": (44.11, 40.56),
    "overlap": (50.62, 50.71),
    "group": (51.53, 51.76),
    "gap": (51.20, 51.56),
}
Row = tuple[str, dict[str, float | None]]


def our_row(name: str, corpus: Mapping) -> Row:
    """A table row of the `corpus` part of `caption_scores`: None where a value is unavailable."""
    values = {column: corpus.get(column) for column in COLUMNS}
    return name, {c: None if v is None or isinstance(v, dict) else _shown(c, v) for c, v in values.items()}


def our_interval(ci95: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float]]:
    """The `ci95` part of `caption_scores` as `format_table` takes it."""
    return {c: (_shown(c, ci95[c][0]), _shown(c, ci95[c][1])) for c in COLUMNS if c in ci95}


def paper_rows(variant: str, task: str = "pe-video") -> list[tuple[str, dict[str, float]]]:
    """The paper's rows for a variant, named as the paper's; one without values for what is not in the paper.

    Args:
        task: "pe-video": Qwen2.5-VL 3B and 7B fine-tuned on PE-Video; "funqa": 3B, the mean of the six sub-tasks.
    """
    if variant not in _PAPER[task]:
        return [(f"{variant}: not in the paper", {})]
    suffix = "" if task == "pe-video" else ", mean of six"
    sizes = _PAPER[task][variant].items()
    return [(f"{variant}, paper {size}{suffix}", dict(zip(COLUMNS, row, strict=False))) for size, row in sizes]


def paper_disturbed(variant: str) -> dict[str, float] | None:
    """The paper's BLEURT (times 100, 3B, trained with K = 3) under {"fixed": K = 3, "random": random K}.

    None for origin and batch, which wait for no schedule.
    """
    row = _DISTURBED.get(variant)
    return None if row is None else dict(zip(("fixed", "random"), row, strict=True))


def format_table(rows: Sequence[Row], intervals: Mapping[str, Mapping[str, tuple[float, float]]] | None = None) -> str:
    """Rows of (name, values) in the paper's column order; "n/a" where there is no value.

    Args:
        intervals: name of a row -> column -> its 95 % interval, which stands below the row.
    """
    lines = [("", *COLUMNS)]
    for name, values in rows:
        lines.append((name, *(_cell(values.get(column)) for column in COLUMNS)))
        ends = (intervals or {}).get(name) or {}
        for i, label in enumerate(("  95 % from", "  95 % to") if ends else ()):
            lines.append((label, *(f"{ends[column][i]:.2f}" if column in ends else "" for column in COLUMNS)))
    return as_text(lines)


def _shown(column: str, value: float) -> float:
    return value if column in AS_IT_IS else 100 * value


def _cell(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"
