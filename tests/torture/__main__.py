"""Runs the parts of `parts.py` trial by trial, keeps what came of each, and writes the table of docs/results.

A trial is known by its part, its number and the seed: a run that was stopped goes on with the next one, and a failed
one can be had again alone (--only PART NUMBER). Trials of another commit count no more.
"""

import argparse
import json
import random
import sys
import time
import traceback
from pathlib import Path

from swwatch.data.annotations import write_atomic
from swwatch.metrics.machine import machine
from swwatch.metrics.tables import as_markdown
from swwatch.paths import ROOT, only_one
from tests.torture.parts import PARTS, World

PAGE = ROOT / "docs" / "results" / "reliability.md"
CHANGES = "+changes"  # behind a commit whose files were changed since
FOLDER = ROOT / "output" / "torture"


def main(argv: list[str], parts=PARTS, folder: Path = FOLDER, page: Path = PAGE) -> int:
    parser = argparse.ArgumentParser(prog="bash scripts/torture.sh", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)} (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the trials of a full run")
    parser.add_argument("--only", nargs=2, metavar=("PART", "NUMBER"), help="one trial, kept nowhere")
    args = parser.parse_args(argv)
    if unknown := set(args.parts) - set(parts):
        parser.error(f"no part {', '.join(sorted(unknown))}: choose of {', '.join(parts)}")
    with only_one(folder, str(folder)), World(folder / "world") as world:
        if args.only:
            parts[args.only[0]].trial(world, random.Random(f"{args.seed} {args.only[0]} {args.only[1]}"))
            return 0
        for name in args.parts or parts:
            run_part(name, parts[name], world, folder / f"{name}.json", args)
    done = {name: json.loads(path.read_text()) for name in parts if (path := folder / f"{name}.json").exists()}
    write_atomic(page, [table(done, parts)])
    print(f"table in {page}")
    return int(any(kept["failed"] for kept in done.values()))


def run_part(name: str, part, world, file: Path, args) -> None:
    """The trials of a part that are not done yet."""
    now = machine()
    kept = {"seed": args.seed, "commit": now["commit"], "trials": 0, "counts": {}, "seconds": 0.0, "failed": []}
    if file.exists():
        before = json.loads(file.read_text())
        same = [[one["seed"], one["commit"].removesuffix(CHANGES)] for one in (before, kept)]  # the page is a change
        kept = before if same[0] == same[1] else kept
    while kept["trials"] < max(1, round(part.trials * args.share)):
        number, began = kept["trials"], time.monotonic()
        try:
            counts = part.trial(world, random.Random(f"{args.seed} {name} {number}"))
        except Exception:
            counts = {}
            kept["failed"].append({"trial": number, "trace": traceback.format_exc()[-2000:]})
            print(f"{name} {number} FAILED\n{traceback.format_exc()}", file=sys.stderr)
        for what, count in counts.items():
            kept["counts"][what] = kept["counts"].get(what, 0) + count
        kept |= {"trials": number + 1, "seconds": kept["seconds"] + time.monotonic() - began, "machine": now}
        write_atomic(file, [json.dumps(kept, indent=1) + "\n"])
    print(f"{name}: {kept['trials']} trials, {kept['counts']}, {len(kept['failed'])} failed", flush=True)


def table(done: dict[str, dict], parts) -> str:
    """The page: what was done how often, and what failed."""
    rows = [["part", "what must hold", "trials", "what was done in them", "failed", "minutes", "commit, seed"]]
    for name, kept in done.items():
        counts = ", ".join(f"{count:,} {what}" for what, count in kept["counts"].items())
        cells = [f"{kept['trials']:,} of {parts[name].trials:,}", counts, f"{len(kept['failed'])}"]
        cells += [f"{kept['seconds'] / 60:.1f}", f"{kept['commit']}, {kept['seed']}"]
        rows.append([f"`{name}`", parts[name].holds, *cells])
    where = {f"{kept['machine']['cpu']}, {kept['machine']['cores']} cores" for kept in done.values()}
    failed = [f"- `{name}` {one['trial']}" for name, kept in done.items() for one in kept["failed"]]
    text = [
        "# What happens where things go wrong",
        "`bash scripts/torture.sh` wrote this page: trials on tiny random models, each drawn from the seed. "
        "A smaller `--share` runs fewer trials than a full run has; the table says how many were run.",
        as_markdown(rows, numeric=False),
        f"Hardware: {'; '.join(sorted(where))}; other work ran beside it. In small form this is in the default tests.",
    ]
    return "\n\n".join(text + ["\n".join(["Failed:", *failed])] * bool(failed)) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
