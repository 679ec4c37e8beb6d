"""Build the annotations of a task: `python mani_data.py` or `swwatch prepare`."""

import argparse
from pathlib import Path

from swwatch.paths import ROOT


def main(argv: list[str], home: Path = ROOT) -> int:
    """The program. `home` is the folder whose `dataset` is the default root."""
    task = argparse.ArgumentParser(add_help=False)
    task.add_argument("--task")
    asked, _ = task.parse_known_args(argv)
    if asked.task == "funqa":
        from swwatch.data.prepare import funqa

        return funqa.run(argv, home)
    from swwatch.data.prepare import pe_video

    return pe_video.run(argv, home)
