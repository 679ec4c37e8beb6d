"""Compare two runs on the clips that both have: difference, 95 % interval and p value of every metric."""

from dataclasses import dataclass
from pathlib import Path

from swwatch.config import REQUIRED, check_least, read_settings, setting
from swwatch.evaluate.compare import METHOD
from swwatch.evaluate.run_files import read_run, write_object
from swwatch.metrics import NUM_RESAMPLES
from swwatch.paths import writing


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Which runs, and how chance is drawn."""

    run_a: Path = setting(REQUIRED, "predictions file of a run, NAME_infer.json", positional=True)
    run_b: Path = setting(REQUIRED, "predictions file of the other run", positional=True)
    json: Path | None = setting(None, "write all of it there too")
    resamples: int = setting(NUM_RESAMPLES, "rounds", least=1)
    seed: int = setting(0, "of the random draws")
    other_data: bool = setting(False, "accept test files that differ, if references agree")

    def __post_init__(self):
        check_least(self)


def main(argv: list[str]) -> int:
    about = f"{__doc__}\n\n{METHOD}"
    settings = read_settings(CompareSettings, argv, program="swwatch compare", about=about)
    a, b = (read_run(path).tell() for path in (settings.run_a, settings.run_b))

    from swwatch.evaluate.compare.measure import compare_runs, describe  # numpy and the scorers are behind it

    chance = {"num_resamples": settings.resamples, "seed": settings.seed}
    found = compare_runs(a, b, **chance, other_data=settings.other_data)
    print(describe(found), flush=True)  # whatever the disk takes
    if settings.json is not None:
        with writing(settings.json.parent):
            write_object(settings.json, found)
    return 0
