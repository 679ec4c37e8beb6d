"""Measure what this machine does. `swwatch bench KIND --help` tells the options of a kind.

A kind is a folder with the same four parts: `settings` (what is asked), `measure` (settings and command -> result),
`page` (result -> Markdown) and, where it has pictures, `plots`. Only the first is imported before all flags are right.
"""

import inspect
import json
import shlex
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

from swwatch.bench.settings import BenchSettings
from swwatch.config import choose_kind, read_settings
from swwatch.data.annotations import write_atomic
from swwatch.errors import UserError
from swwatch.paths import only_one_writes


@dataclass(frozen=True)
class Benchmark:
    """A row of the table.

    Attributes:
        settings: name of its BenchSettings.
        about: one line of help.
        pictures: it has `plots`.
    """

    settings: str
    about: str
    pictures: bool = False


KINDS = {
    "train": Benchmark(
        "TrainBenchSettings", "attention backends and packing: samples/s, tokens/s, memory of training steps"
    ),
    "stream": Benchmark(
        "StreamBenchSettings", "watching while speaking: all engines on the same weights, against the bound", True
    ),
    "endless": Benchmark(
        "EndlessBenchSettings", "streams without end: cost and memory of a second, the longer one lasts", True
    ),
    "live": Benchmark("LiveBenchSettings", "how many live sessions one device holds"),
}


def main(argv: list[str]) -> int:
    summary, _, _ = __doc__.partition("\n\n")
    kinds = {name: kind.about for name, kind in KINDS.items()}
    return run(choose_kind(argv, program="swwatch bench", about=summary, kinds=kinds), argv[1:])


def run(name: str, argv: list[str]) -> int:
    """One kind, from its flags to its page."""
    settings_type = getattr(part(name, "settings"), KINDS[name].settings)
    about = inspect.getdoc(settings_type)
    settings = read_settings(settings_type, argv, program=f"swwatch bench {name}", about=about)
    if settings.report is not None:
        return report_again(name, settings.report, settings.output or settings.report.parent)

    import torch

    flags, settings = settings, settings.settled(torch.cuda.is_available())
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    with ExitStack() as held:
        if settings.output is not None:
            held.enter_context(only_one_writes(settings.output / f"bench_{name}.json"))
        result = part(name, "measure").measure(settings, shlex.join(["swwatch", "bench", name, *argv]))
        print(part(name, "page").report(result))
        if settings.output is not None:
            draw(name, result, settings.output)
            keep_note(name, flags)
    return 0


def keep_note(name: str, settings: BenchSettings) -> None:
    """Beside the figures, what another needs to measure them again."""
    from swwatch.model.repeat import repeat_of, write_note

    note, model = settings.output / f"bench_{name}_run.json", vars(settings).get("model")
    models, results = {model: None} if model else {}, [f"bench_{name}.json"]
    write_note(note, repeat_of(["bench", name], settings, note, results=results, models=models, timed=True))


def part(name: str, module: str) -> ModuleType:
    return import_module(f"swwatch.bench.{name}.{module}")


def report_again(name: str, file: Path, folder: Path) -> int:
    """Page and pictures of an earlier run's file.

    Raises:
        UserError: not a file of this benchmark.
    """
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        text = part(name, "page").report(result)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not a file that `swwatch bench {name}` wrote: {error!r}") from error
    print(text)
    with only_one_writes(folder / f"bench_{name}.json"):
        write_atomic(folder / f"bench_{name}.md", [text + "\n"])
        draw(name, result, folder)
    return 0


def draw(name: str, result: dict, folder: Path) -> None:
    if KINDS[name].pictures:
        part(name, "plots").draw(result, folder)
    print(f"\nwritten to {folder}")
