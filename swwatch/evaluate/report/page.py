"""The files of a report: the page, the Markdown and the plots."""

from pathlib import Path

from swwatch.data.annotations import write_atomic
from swwatch.evaluate.report.clips import clip_data, embed_frames
from swwatch.evaluate.report.gather import ReportedRun
from swwatch.evaluate.report.html import page, script_json
from swwatch.evaluate.report.markdown import markdown
from swwatch.evaluate.report.plots import draw_all
from swwatch.evaluate.report.settings import ReportSettings
from swwatch.evaluate.report.tables import all_tables

PAGE_BYTES = 15_000_000  # of the page, where --frames does not say otherwise
REST_BYTES = 500_000  # what tables, plots, style and script may take of them


def write_report(settings: ReportSettings, runs: list[ReportedRun]) -> None:
    """Write them."""
    tables, plots, clips = all_tables(runs), draw_all(runs), clip_data(runs)
    budget = max(0, PAGE_BYTES - REST_BYTES - len(script_json(clips).encode("utf-8", "replace")))
    note = embed_frames(clips, runs, img_root=settings.img_root, max_clips=settings.frames, max_bytes=budget)
    write_text(settings.out / "report.html", page(runs, tables, plots, clips, note))
    write_text(settings.out / "report.md", markdown(runs, tables, plots, clips))
    for plot in plots:
        (settings.out / f"{plot.key}.png").write_bytes(plot.png)
    out, megabytes = settings.out, (settings.out / "report.html").stat().st_size / 1e6
    print(f"{len(runs)} runs, {len(clips)} clips -> {out}/report.html ({megabytes:.1f} MB), {out}/report.md")
    if note:
        print(note)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8; half a surrogate pair, which a broken caption may hold, becomes a question mark."""
    write_atomic(path, [text.encode("utf-8", "replace").decode("utf-8")])
