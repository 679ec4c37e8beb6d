"""Scores as a table in the paper's column order, beside the paper's own rows (arXiv 2601.06843), all times 100."""

COLUMNS = ("CIDEr", "BLEU-1", "BLEU-4", "METEOR", "ROUGE-L")
_ROWS = {  # video description on PE-Video: variant -> size -> the values of COLUMNS
    "origin": {"3B": (35.44, 42.36, 14.45, 29.18, 30.47), "7B": (42.42, 40.43, 12.46, 27.79, 32.72)},
    "batch": {"3B": (30.86, 40.26, 13.64, 28.49, 34.12), "7B": (38.13, 39.58, 11.97, 27.20, 31.58)},
    "interleave": {"3B": (20.08, 44.40, 14.41, 27.17, 34.95), "7B": (46.94, 49.02, 16.13, 32.24, 36.29)},
    "overlap": {"3B": (26.32, 42.14, 12.78, 27.92, 32.29), "7B": (47.49, 43.85, 12.10, 28.05, 31.86)},
    "group": {"3B": (12.52, 26.32, 7.42, 30.03, 27.37), "7B": (37.78, 41.01, 11.25, 27.48, 30.52)},
    "gap": {"3B": (28.11, 40.42, 11.52, 29.13, 30.69), "7B": (25.70, 39.09, 9.85, 28.71, 28.82)},
}


def our_row(name: str, corpus: dict) -> tuple[str, dict[str, float | None]]:
    """A table row of the `corpus` part of `caption_scores`: values times 100, None where one is unavailable."""
    values = {column: corpus.get(column) for column in COLUMNS}
    return name, {c: None if v is None or isinstance(v, dict) else 100 * v for c, v in values.items()}


def paper_rows(variant: str) -> list[tuple[str, dict[str, float]]]:
    """The paper's rows for a variant (Qwen2.5-VL 3B and 7B fine-tuned on PE-Video), named as the paper's."""
    return [(f"{variant}, paper {size}", dict(zip(COLUMNS, row, strict=True))) for size, row in _ROWS[variant].items()]


def format_table(rows: list[tuple[str, dict[str, float | None]]]) -> str:
    """Rows of (name, values times 100) as aligned text in the paper's column order; "n/a" where there is no value."""
    width = max(len(name) for name, _ in rows)
    lines = [" " * width + "".join(f"{column:>9}" for column in COLUMNS)]
    for name, values in rows:
        cells = (values.get(column) for column in COLUMNS)
        lines.append(f"{name:{width}}" + "".join(f"{'n/a':>9}" if v is None else f"{v:9.2f}" for v in cells))
    return "\n".join(lines)
