"""Measure what this machine does. `swwatch bench KIND --help` tells the options of a kind."""

import argparse
import importlib

# kind -> (module with `main(argv) -> exit code`, one line of help); imported only when asked for
KINDS = {
    "train": (
        "swwatch.bench.train.command",
        "attention backends and packing: samples/s, tokens/s, memory of training steps",
    ),
    "stream": (
        "swwatch.bench.stream.command",
        "watching while speaking: all engines on the same weights, against the bound",
    ),
    "endless": (
        "swwatch.bench.endless.command",
        "streams without end: cost and memory of a second, the longer one lasts",
    ),
    "live": ("swwatch.bench.live.command", "how many live sessions one device holds at 2 frames a second"),
}


def main(argv: list[str]) -> int:
    kinds = "\n".join(f"  {name:9}{text}" for name, (_, text) in KINDS.items())
    parser = argparse.ArgumentParser(
        prog="swwatch bench",
        description=__doc__,
        epilog=f"kinds:\n{kinds}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=KINDS, metavar="KIND", help=f"one of {', '.join(KINDS)}")
    name = parser.parse_args(argv[:1]).kind
    return importlib.import_module(KINDS[name][0]).main(argv[1:])
