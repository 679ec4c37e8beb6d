"""The disturbance table as text and as Markdown."""

from collections.abc import Mapping

from swwatch.metrics.tables import as_markdown, as_text
from swwatch.rules.variants import is_chat

SURE = 0.05  # a p-value below it earns a star


def disturbance_text(table: Mapping) -> str:
    """One aligned block a metric."""
    blocks = [f"{_title(table, metric)}\n{as_text(_grid(table, metric))}" for metric in table["metrics"]]
    return "\n\n".join([*blocks, _legend(table)])


def disturbance_markdown(table: Mapping) -> str:
    """One table a metric."""
    blocks = [f"## {_title(table, metric)}\n\n{as_markdown(_grid(table, metric))}" for metric in table["metrics"]]
    return "\n\n".join(["# What a disturbed schedule costs", *blocks, _legend(table)])


def _title(table: Mapping, metric: str) -> str:
    return f"{metric}, {table['num_clips']} clips" + (", times 100" if table["scale"][metric] == 100 else "")


def _grid(table: Mapping, metric: str) -> list[list[str]]:
    """Header and lines of one metric: own schedule first, then the others, then the paper's rows where there are."""
    scale, owns = table["scale"][metric], {row["trained"] for row in table["rows"]}
    others = [
        s for s in table["schedules"] if owns != {s}
    ]  # a schedule that all were trained with is the first column
    header = ["model", f"trained ({owns.pop()})" if len(owns) == 1 else "as trained", *others]
    lines = [
        [row["name"], _number(row["cells"][metric][row["trained"]]["value"], scale)]
        + [_cell(row, metric, schedule, scale) for schedule in others]
        for row in table["rows"]
    ]
    paper = table["paper"]
    if metric == paper["metric"]:
        first_random = next((s for s in others if s.startswith("random")), None)
        for variant, bleurt in paper["rows"].items():
            shaken = f"{bleurt['random']:.2f} ({bleurt['random'] - bleurt['fixed']:+.2f})"
            shown = [shaken if schedule == first_random else "" for schedule in others]
            lines.append([f"{variant}, paper", f"{bleurt['fixed']:.2f}", *shown])
    return [header, *lines]


def _cell(row: Mapping, metric: str, schedule: str, scale: float) -> str:
    if schedule == row["trained"]:
        return "as trained"
    if row["offline"]:
        return "not affected"
    cell = row["cells"][metric][schedule]
    if cell["difference"] is None:
        return _number(cell["value"], scale)
    sure = "*" if cell["p_value"] is not None and cell["p_value"] < SURE else ""
    return f"{_number(cell['value'], scale)} ({round(scale * cell['difference'], 2) + 0:+.2f}{sure})"


def _number(value: float | None, scale: float) -> str:
    return "n/a" if value is None else f"{scale * value:.2f}"


def _legend(table: Mapping) -> str:
    lines = [
        f"In brackets the change against the model's own schedule on the same clips; * where p < {SURE:g} "
        "(approximate randomization over clips, each test by itself, not corrected for their number).",
    ]
    if any(row["offline"] for row in table["rows"]):
        lines.append("Offline models speak after the whole video: no schedule reaches them, they were evaluated once.")
    if any(is_chat(row["variant"]) for row in table["rows"]):
        lines.append("Chat systems speak once in every turn: no schedule reaches them either.")
    if table["paper"]["metric"] in table["metrics"] and table["paper"]["rows"]:
        lines.append(f"Rows named paper are {table['paper']['what']}.")
    return "\n".join(lines)
