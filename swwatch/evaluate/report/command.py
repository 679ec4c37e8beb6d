"""Write one self-contained HTML page, and Markdown, from the result files of one or several evaluations."""

from dataclasses import dataclass
from pathlib import Path

from swwatch.config import REQUIRED, check_least, read_settings, setting
from swwatch.data.annotations import write_atomic
from swwatch.evaluate.report.clips import clip_data, embed_frames
from swwatch.evaluate.report.gather import ReportedRun, gather
from swwatch.evaluate.report.html import page, script_json
from swwatch.evaluate.report.markdown import markdown
from swwatch.evaluate.report.plots import draw_all
from swwatch.evaluate.report.tables import all_tables
from swwatch.paths import only_one_writes

PAGE_BYTES = 15_000_000  # of the page, where --frames does not say otherwise
REST_BYTES = 500_000  # what tables, plots, style and script may take of them


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Which runs, and what is shown of them."""

    runs: list[Path] = setting(
        REQUIRED, "predictions file, NAME_infer.json", positional=True, several=True, metavar="RUN"
    )
    out: Path = setting(REQUIRED, "folder for report.html, report.md and the plots")
    frames: int | None = setting(None, "clips shown with frames; by default as many as fit in 15 MB", least=0)
    data_dir: Path | None = setting(None, "annotation file instead of the one that each run names")
    img_root: Path | None = setting(None, "folder of the videos, where they have moved")

    def __post_init__(self):
        check_least(self)


def main(argv: list[str]) -> int:
    settings = read_settings(ReportSettings, argv, program="swwatch report", about=__doc__)
    runs = gather(settings.runs, settings.data_dir)
    with only_one_writes(settings.out / "report.html"):
        write_report(settings, runs)
    return 0


def write_report(settings: ReportSettings, runs: list[ReportedRun]) -> None:
    """The page, the Markdown and the plots of runs."""
    tables, plots, clips = all_tables(runs), draw_all(runs), clip_data(runs)
    room = max(0, PAGE_BYTES - REST_BYTES - len(script_json(clips).encode("utf-8", "replace")))
    note = embed_frames(clips, runs, img_root=settings.img_root, max_clips=settings.frames, max_bytes=room)
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
