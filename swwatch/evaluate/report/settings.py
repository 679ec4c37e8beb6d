"""What can be set for a report."""

from dataclasses import dataclass
from pathlib import Path

from swwatch.config import REQUIRED, check_least, setting


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
