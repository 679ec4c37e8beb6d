"""Write one self-contained HTML page, and Markdown, from the result files of one or several evaluations."""

import argparse
from pathlib import Path

from swwatch.data.annotations import write_atomic
from swwatch.errors import UserError
from swwatch.evaluate.report.clips import clip_data, embed_frames
from swwatch.evaluate.report.gather import Run, gather
from swwatch.evaluate.report.html import page, script_json
from swwatch.evaluate.report.markdown import markdown
from swwatch.evaluate.report.plots import draw_all
from swwatch.evaluate.report.tables import all_tables
from swwatch.paths import only_one_writes

PAGE_BYTES = 15_000_000  # of the page, where --frames does not say otherwise
REST_BYTES = 500_000  # what tables, plots, style and script may take of them


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="swwatch report", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="predictions file, NAME_infer.json")
    parser.add_argument("--out", type=Path, required=True, help="folder for report.html, report.md and the plots")
    parser.add_argument("--frames", type=int, help="clips shown with frames; by default as many as fit in 15 MB")
    parser.add_argument("--data-dir", type=Path, help="annotation file instead of the one that each run names")
    parser.add_argument("--img-root", type=Path, help="folder of the videos, where they have moved")
    return parser


def main(argv: list[str]) -> int:
    args = build_parser().parse_args(argv)
    if args.frames is not None and args.frames < 0:
        raise UserError(f"--frames {args.frames}: give 0 (no frames) or more")
    runs = gather(args.runs, args.data_dir)
    with only_one_writes(args.out / "report.html"):
        write_report(args, runs)
    return 0


def write_report(args: argparse.Namespace, runs: list[Run]) -> None:
    """The page, the Markdown and the plots of runs."""
    tables, plots, clips = all_tables(runs), draw_all(runs), clip_data(runs)
    room = max(0, PAGE_BYTES - REST_BYTES - len(script_json(clips).encode("utf-8", "replace")))
    note = embed_frames(clips, runs, img_root=args.img_root, max_clips=args.frames, max_bytes=room)
    write_text(args.out / "report.html", page(runs, tables, plots, clips, note))
    write_text(args.out / "report.md", markdown(runs, tables, plots, clips))
    for plot in plots:
        (args.out / f"{plot.key}.png").write_bytes(plot.png)
    megabytes = (args.out / "report.html").stat().st_size / 1e6
    print(f"{len(runs)} runs, {len(clips)} clips -> {args.out}/report.html ({megabytes:.1f} MB), {args.out}/report.md")
    if note:
        print(note)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8; half a surrogate pair, which a broken caption may hold, becomes a question mark."""
    write_atomic(path, [text.encode("utf-8", "replace").decode("utf-8")])
