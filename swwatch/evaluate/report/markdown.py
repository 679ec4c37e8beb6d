"""The report as Markdown: the page's tables, its plots as pictures beside it, and a few clips as text."""

import re

from swwatch.evaluate.report.gather import ReportedRun
from swwatch.evaluate.report.plots import Plot
from swwatch.evaluate.report.tables import Table, sentence
from swwatch.metrics.tables import as_markdown

NUM_EXAMPLES = 3


def markdown(runs: list[ReportedRun], tables: list[Table], plots: list[Plot], clips: list[dict]) -> str:
    """The whole file as text; all that comes from the runs is escaped."""
    parts = ["# swwatch report", "\n".join(f"- **{plain(run.name)}**: {plain(sentence(run))}" for run in runs)]
    by_key = {table.key: table_markdown(table) for table in tables}
    last = [by_key.pop("runs"), by_key.pop("skipped", "")]
    parts += by_key.values()
    parts += [f"## {plot.title}\n\n![{plot.title}]({plot.key}.png)\n\n{plot.text}" for plot in plots]
    parts += [examples(runs, clips), *last]
    return "\n\n".join(part for part in parts if part) + "\n"


def table_markdown(table: Table) -> str:
    lines = [[plain(name) or " " for name in table.columns]]
    for number, row in enumerate(table.rows):
        mark = "*" if number in table.paper else ""
        lines.append([f"{mark}{plain(cell)}{mark}" for cell in row])
    notes = "\n".join(f"- {plain(note)}" for note in table.notes)
    shown = as_markdown(lines, table.num_names, numeric=table.numeric)
    return f"## {table.title}\n\n{shown}" + (f"\n\n{notes}" if notes else "")


def examples(runs: list[ReportedRun], clips: list[dict]) -> str:
    """The first clips as text, each caption with a mark where a second's words begin."""
    lines = [f"## The first {min(NUM_EXAMPLES, len(clips))} of {len(clips)} clips"]
    if runs and any(run.tokens for run in runs):
        lines.append("A number in brackets: from here on the words were spoken at this second.")
    for clip in clips[:NUM_EXAMPLES]:
        lines.append(f"**{plain(clip['id'])}**\n\n- reference: {plain(clip['reference']) or '(none)'}")
        for run, said in zip(runs, clip["runs"], strict=True):
            if said is not None:
                lines[-1] += f"\n- {plain(run.name)}: {_spoken(said) or '(empty caption)'}"
    return "\n\n".join(lines)


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!&$+])", r"\\\1", " ".join(str(text).split()))


def _spoken(said: dict) -> str:
    if said["tokens"] is None:
        return plain(said["text"])
    text, last = "", None
    for word, step, *_ in said["tokens"]:
        text += f" [{(step + 1) * said['step_s']:g}] {word}" if word and step != last else word
        last = step if word else last
    return plain(text)
