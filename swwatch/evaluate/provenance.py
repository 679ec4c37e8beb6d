"""The closing table of a report: how scores came about, and every average by its name."""

from collections.abc import Mapping, Sequence

from swwatch.metrics.tables import as_markdown
from swwatch.metrics.tables import interval as span

MADE = ("model", "how", "prompt", "context", "policy", "commit")
COUNTED = ("frames", "tokens", "seconds")


def side_by_side(reports: Sequence[Mapping]) -> str:
    """Runs as the lines of one table: what was measured, of how many questions, and every average by its name."""
    names = list(dict.fromkeys(name for report in reports for name in report["averages"]))
    questions = ["questions"] if "num_questions" in reports[0] else []  # of commentary votes are told elsewhere
    lines = [(*MADE, *questions, *COUNTED, *(column for name in names for column in (name, "95 %")))]
    for report in reports:
        cells = [report.get("made", {}).get(name, "-") for name in MADE]
        cells += [f"{report['num_questions']} of {report['num_items']}" for _ in questions]
        cells += [_number(report.get(name)) for name in COUNTED]
        for name in names:
            row = report["averages"].get(name)
            cells += ["-", "-"] if row is None else _scores(row)
        lines.append(cells)
    return as_markdown(lines, num_names=len(MADE))


def named(model: str, fingerprint: str | None) -> str:
    """A model as the table calls it: its folder or name, and eight digits of what it is by content, or its commit."""
    digits = (fingerprint or "").rpartition("@")[2]
    name = model.rstrip("/").rpartition("/")[2]
    return name if digits in ("", "None") else f"{name}@{digits[:8]}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _scores(row: Mapping) -> list[str]:
    """Share and interval; of replies both scorers', the strict one first."""
    shares, ends = [f"{100 * row['accuracy']:.1f}"], [span(row["ci95"], ".1f", 100)]
    if "official" in row:
        shares.append(f"{100 * row['official']:.1f}")
        ends.append(span(row["official_ci95"], ".1f", 100))
    return [" / ".join(shares), " / ".join(ends)]
