"""Write one self-contained HTML page, and Markdown, from the result files of one or several evaluations."""

from swwatch.config import read_settings
from swwatch.evaluate.report.settings import ReportSettings
from swwatch.paths import only_one_writes


def main(argv: list[str]) -> int:
    settings = read_settings(ReportSettings, argv, program="swwatch report", about=__doc__)

    from swwatch.evaluate.report.gather import gather  # numpy, Pillow and matplotlib are behind these
    from swwatch.evaluate.report.page import write_report

    runs = gather(settings.runs, settings.data_dir)
    with only_one_writes(settings.out / "report.html"):
        write_report(settings, runs)
    return 0
