"""The toy BASE: a model pretrained offline on all that can be asked of short clips, as papers begin with a pretrained
model. Kept under the hash of its recipe, so that it is made once.

It learns in two stages, as such models do: first to see, by telling what happens in clips of single shapes; then to
answer, by ordinary chat about clips of many. (From chat alone the tower did not learn shapes and directions:
docs/results/policies.md.) What comes of it is a folder that names no variant: any can be fine-tuned from it. What it
knows is asked of held-out clips, whole, with the question behind the video: one forward, and the likeliest of the
words that may answer (`swwatch quiz` does so with letters).
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import yaml

from swwatch.config import check_least, read_settings, setting
from swwatch.data.annotations import write_atomic
from swwatch.metrics.tables import as_markdown
from swwatch.paths import CONFIGS, ROOT, only_one, whole_folder
from swwatch.study.commands import as_flags
from swwatch.study.jobs import Job, run_all

TO_SEE, TO_ANSWER = CONFIGS / "train" / "toy.yaml", CONFIGS / "train" / "toy_base.yaml"
ENOUGH = 0.95  # share of right answers of each kind that a BASE should reach
MADE = "base.json"  # what a BASE knows; written last


@dataclass(frozen=True)
class BaseSettings:
    """Settings of `swwatch study base`; what decides the weights is its recipe."""

    out: Path = setting(ROOT / "output" / "study", "where bases are kept, each in a folder of its own")
    clips: int = setting(3600, "training clips of the world basics; a third as many of single shapes", least=3)
    test_clips: int = setting(60, "held-out clips that it is asked about", least=1)
    steps: int | None = setting(None, "optimizer steps instead of the configurations' (a trial, not a base)", least=1)
    seed: int = setting(0, "of the weights and the order of the clips", least=0)

    def __post_init__(self):
        check_least(self)

    @property
    def folder(self) -> Path:
        """Of this recipe, named by its hash."""
        recipe = {name: value for name, value in asdict(self).items() if name != "out"}
        stages = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in (TO_SEE, TO_ANSWER)]
        text = json.dumps([recipe, stages])
        return self.out.resolve() / f"base-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def main(argv: list[str]) -> int:
    settings = read_settings(BaseSettings, argv, program="swwatch study base", about=__doc__)
    path = make_base(settings)
    print(f"{describe(path)}\n\nfine-tune from it: swwatch train --variant group --model-path {path} ...")
    return 0


def make_base(settings: BaseSettings) -> Path:
    """The folder of the BASE, which is made where it is not there yet; goes on where it was stopped."""
    folder = settings.folder
    base = folder / "base"
    with only_one(folder, str(folder)):
        if not (folder / MADE).is_file():
            print(f"making the base of all fine-tuning in {folder}")
            at_once = len(os.sched_getaffinity(0))
            run_all(jobs_to_see(settings), folder / "jobs", at_once=at_once)
            if not (folder / "sees").is_dir():
                as_plain(folder / "model", folder / "narrator", folder / "sees")
            run_all([job_to_answer(settings)], folder / "jobs", at_once=1)
            if not base.is_dir():
                as_plain(folder / "model", folder / "trained", base)
            knows = ask(base, folder / "data", settings.test_clips)
            write_atomic(folder / MADE, [json.dumps(knows, indent=1) + "\n"])
    return base


def jobs_to_see(settings: BaseSettings) -> list[Job]:
    """The first stage, and the clips of the second."""
    folder = settings.folder
    single, data, model = folder / "single", folder / "data", folder / "model"
    same = {"test_clips": settings.test_clips, "seed": settings.seed, "workers": 1}
    some, many = as_flags(clips=settings.clips // 3, level="single"), as_flags(clips=settings.clips, level="basics")
    where = as_flags(dataset_root=single, output_dir=single, tokenizer_model_id=model)
    files = {"train_data": single / "train_3_5.jsonl", "output_dir": folder / "narrator"}
    return [
        Job("model", ("toy", "model", str(model), *as_flags(seed=settings.seed))),
        Job("single", ("toy", "data", str(single), *some, *as_flags(**same))),
        Job("annotations", ("prepare", *where), ("single", "model")),
        Job("narrator", _train(settings, TO_SEE, "interleave", model, **files), ("annotations",)),
        Job("clips", ("toy", "data", str(data), *many, *as_flags(**same))),
        Job("questions", ("toy", "questions", str(data)), ("clips",)),
    ]


def job_to_answer(settings: BaseSettings) -> Job:
    """The second stage, from what the first one left."""
    folder = settings.folder
    files = {"train_data": folder / "data" / "chat_train.jsonl", "output_dir": folder / "trained"}
    return Job("train", _train(settings, TO_ANSWER, "livecc", folder / "sees", **files))


def _train(settings: BaseSettings, config: Path, variant: str, model: Path, **files: Path) -> tuple[str, ...]:
    steps = {} if settings.steps is None else {"max_steps": settings.steps}
    how = {"config": config, "variant": variant, "seed": settings.seed, "model_path": model}
    return ("train", *as_flags(**how, **files, **steps))


def as_plain(start: Path, trained: Path, out: Path) -> None:
    """The files of `start` with the weights of `trained`: a folder that names no variant."""
    with whole_folder(out) as part:
        for path in start.iterdir():
            if path.is_file() and path.name != "toy_model.json":
                shutil.copy(trained / path.name if path.suffix == ".safetensors" else path, part / path.name)


def ask(base: Path, data: Path, max_clips: int) -> dict[str, list[int]]:
    """Kind of question -> (right answers, questions), about held-out clips.

    Args:
        data: of `swwatch toy data` and `toy questions`.
    """
    from swwatch.data.budget import BUDGETS  # torch is behind what follows
    from swwatch.evaluate.quiz.asking import Plain
    from swwatch.evaluate.quiz.tasks import Form
    from swwatch.model.loading import load

    asker = Plain(load(base, variant="origin"), Form(beginning="", context=""), BUDGETS["declared"])
    knows: dict[str, list[int]] = {}
    for item in _items(data, max_clips):
        ((_, answered),) = asker.answers([item], item.locate(data))
        counts = knows.setdefault(item.group, [0, 0])
        counts[0] += answered.said == item.answer
        counts[1] += 1
    return knows


def _items(data: Path, max_clips: int) -> Iterator:
    from swwatch.evaluate.quiz.items import Item
    from swwatch.toy.clips import clips_of
    from swwatch.toy.questions import at_the_end

    for record, place in islice(clips_of(data, "test"), max_clips):
        name = record["video_id"]
        for number, question in enumerate(at_the_end(record)):
            words = tuple(option.split()[0] for option in question.options)
            where = {"key": f"{name}/{number}", "video": name, "places": (place,), "group": question.kind}
            yield Item(**where, prompt=question.text, choices=words, answer=question.word)


def describe(base: Path) -> str:
    """What a BASE knows, as a table, and whether that is enough."""
    knows = json.loads((base.parent / MADE).read_text(encoding="utf-8"))
    lines = [["question", "right, %", "asked"]]
    lines += [[kind, f"{100 * right / count:.1f}", str(count)] for kind, (right, count) in knows.items()]
    lacking = [kind for kind, (right, count) in knows.items() if right < ENOUGH * count]
    verdict = f"below {100 * ENOUGH:.0f} %: {', '.join(lacking)}" if lacking else f"all at least {100 * ENOUGH:.0f} %"
    return f"{base}, asked about held-out clips of the world basics ({verdict})\n\n{as_markdown(lines)}"
