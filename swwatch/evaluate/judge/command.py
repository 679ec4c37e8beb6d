"""Let a language model grade the fluency of captions, or say which of two runs is better. Answers are kept on disk.

Precedence: flags, then environment variables, then configs/judge.yaml, then the defaults.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from swwatch.config import REQUIRED, read_settings, setting
from swwatch.errors import UserError
from swwatch.evaluate.judge.page import describe_grades, describe_pair, describe_scales
from swwatch.evaluate.judge.session import JudgeSession, exit_code
from swwatch.evaluate.judge.settings import CONFIG, JudgeSettings
from swwatch.evaluate.run_files import read_run
from swwatch.judge.rubric import load_rubric
from swwatch.paths import only_one_writes


@dataclass(frozen=True, kw_only=True)
class GradeSettings(JudgeSettings):
    """Which runs."""

    runs: list[Path] = setting(
        REQUIRED, "predictions of a run (NAME_infer.json)", positional=True, several=True, metavar="RUN"
    )
    against: Path | None = setting(None, "compare with this run instead of grading", metavar="RUN")

    def __post_init__(self):
        super().__post_init__()
        if self.against is None and self.criterion != JudgeSettings.criterion:
            if not load_rubric(self.rubric).get(self.criterion).scales:
                raise UserError(f"--criterion {self.criterion} goes with --against: a run alone is graded by fluency")


def main(argv: list[str]) -> int:
    settings = read_settings(GradeSettings, argv, program="swwatch judge", about=__doc__, yaml_path=CONFIG)
    runs = [read_run(path).tell() for path in dict.fromkeys(settings.runs)]
    other = None if settings.against is None else read_run(settings.against).tell()

    from swwatch.evaluate.judge.measure import (  # numpy is behind it
        compare_runs,
        grade_dialogues,
        grade_run,
        report_of,
    )

    with ExitStack() as held, JudgeSession(settings) as session:
        for run in runs:
            held.enter_context(only_one_writes(report_of(run, other, settings.criterion)))
        if other is None:
            grade = grade_dialogues if session.criterion.scales else grade_run
            reports = [grade(run, session) for run in runs]
        else:
            reports = [compare_runs(run, other, session) for run in runs]
    if other is not None:
        print(describe_pair(reports))
    else:
        print((describe_scales if "scales" in reports[0] else describe_grades)(reports))
    return exit_code(reports, "clips")
