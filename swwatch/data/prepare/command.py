"""Build the annotations of a task: `python mani_data.py` or `swwatch prepare`."""

import argparse
from pathlib import Path

from swwatch.errors import UserError
from swwatch.paths import ROOT

FOR_SHARDS = ("--part", "--join", "--cluster")


def main(argv: list[str], home: Path = ROOT) -> int:
    """The program. `home` is the folder whose `dataset` is the default root."""
    task = argparse.ArgumentParser(add_help=False)
    task.add_argument("--task")
    args, _ = task.parse_known_args(argv)
    if args.task == "funqa":
        if given := [flag for flag in FOR_SHARDS if flag in (word.partition("=")[0] for word in argv)]:
            raise UserError(
                f"{' and '.join(given)}: for PE-Video, which comes in shards. FunQA is one annotation file a split, "
                "prepared by one command on one machine, which opens each video once, --workers at a time, and goes "
                "on where it was stopped: leave that out, and name --splits to do one alone"
            )
        from swwatch.data.prepare import funqa

        return funqa.run(argv, home)
    from swwatch.data.prepare import pe_video

    return pe_video.run(argv, home)
