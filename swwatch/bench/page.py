"""What the pages of all benchmarks share: where a run took place, whether to trust it, tables, how figures look."""

from collections.abc import Callable, Mapping, Sequence

from swwatch.metrics.tables import as_aligned_markdown

Column = tuple[str, Callable[[dict], str]]  # its heading, and a row's cell in it


def head(result: dict, more: Mapping[str, str]) -> str:
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


def table(rows: Sequence[dict], columns: Sequence[Column], named: int = 1) -> str:
    """A line for each row. Of one that was not measured the first `named` columns are told."""
    lines = [tuple(heading for heading, _ in columns)]
    for row in rows:
        if "not_measured" in row:
            cells = [cell(row) for _, cell in columns[:named]]
            lines.append((*cells, "not measured", *[""] * (len(columns) - named - 1)))
        else:
            lines.append(tuple(cell(row) for _, cell in columns))
    return as_aligned_markdown(lines)


def size(count: int | None) -> str:
    """Bytes as people write them; n/a where they are not known."""
    if count is None:
        return "n/a"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.{0 if count >= 1e7 else 1}f} MB"


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms"


def known(value: float | None, form: str) -> str:
    """A figure in a format such as ".2f"; n/a where there is none."""
    return "n/a" if value is None else format(value, form)
