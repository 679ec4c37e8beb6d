"""The page: one HTML file that needs nothing else."""

import base64
import hashlib
import json
import re
from html import escape
from importlib.resources import files

from swwatch.evaluate.report.gather import ReportedRun
from swwatch.evaluate.report.plots import Plot
from swwatch.evaluate.report.tables import Table, sentence
from swwatch.metrics.paper import AS_IT_IS

NOTES_SHOWN = 6  # more notes of one table are folded away


def page(runs: list[ReportedRun], tables: list[Table], plots: list[Plot], clips: list[dict], frames_note: str) -> str:
    """The whole page as text. All that comes from the runs is escaped; a content policy forbids all but our script."""
    part = {table.key: table_html(table) for table in tables}
    script = _resource("browser.js")
    data = {"runs": [run.name for run in runs], "asItIs": sorted(AS_IT_IS), "clips": clips}
    drawn = "\n".join(plot_html(plot) for plot in plots) or (
        "<p>None of these runs has a trace of its tokens, so there is nothing to draw.</p>"
    )
    filled = {
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "style": _resource("style.css"),
        "summary": "".join(f"<li><b><bdi>{escape(run.name)}</bdi></b>: {escape(sentence(run))}</li>" for run in runs),
        "scores": part.pop("scores") + "".join(part.pop(key, "") for key in ("tasks", "toy", "judge")),
        "plots": drawn,
        "timing": part.pop("timing", "") + part.pop("timing-shares", ""),
        "runs": part.pop("runs"),
        "skipped": part.pop("skipped", "<p>No clip was skipped.</p>"),
        "frames_note": escape(frames_note),
        "data": script_json(data),
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: filled[match[1]], _resource("template.html"))


def table_html(table: Table) -> str:
    """A table with its title and notes; it scrolls by itself where the screen is narrow."""
    head = body = ""
    for column, name in enumerate(table.columns):
        mark = "" if column < table.num_names or not table.numeric else ' class="number"'
        head += f'<th scope="col"{mark}><bdi>{escape(name)}</bdi></th>'
    for number, row in enumerate(table.rows):
        mark = ' class="paper"' if number in table.paper else ""
        names = "".join(f'<th scope="row"><bdi>{escape(name)}</bdi></th>' for name in row[: table.num_names])
        cells = "".join(f"<td>{_cell(cell, table.numeric)}</td>" for cell in row[table.num_names :])
        body += f"<tr{mark}>{names}{cells}</tr>\n"
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    notes = f'<ul class="notes">{notes}</ul>\n' if notes else ""
    if len(table.notes) > NOTES_SHOWN:
        notes = f"<details><summary>Definitions and notes</summary>{notes}</details>\n"
    title, kind = escape(table.title), "numbers" if table.numeric else "words"
    return (
        f'<h3 id="{table.key}">{title}</h3>\n'
        f'<div class="scroll" role="region" aria-labelledby="{table.key}" tabindex="0"><table class="{kind}">\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>\n"
        f"{notes}"
    )


def _cell(text: str, numeric: bool) -> str:
    """A cell's text; an interval in brackets goes below its value, so that columns stay narrow."""
    safe = escape(text)
    return re.sub(r" (\[.*\])$", r"<br><small>\1</small>", safe) if numeric else f"<bdi>{safe}</bdi>"


def plot_html(plot: Plot) -> str:
    return (
        f'<figure class="plot"><h3>{escape(plot.title)}</h3>{plot.svg}'
        f"<figcaption>{escape(plot.text)}</figcaption></figure>"
    )


def script_json(data: object) -> str:
    """JSON that may stand inside a script element: no character in it can end the element or open another."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
