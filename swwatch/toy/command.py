"""Toy clips in PE-Video's or FunQA's form, what is said or asked of them, or a tiny model: `swwatch toy KIND OUT`."""

import os
from dataclasses import dataclass
from pathlib import Path

from swwatch.config import REQUIRED, choose_kind, look_up, read_settings, setting
from swwatch.paths import writing
from swwatch.rules.families import FAMILIES
from swwatch.toy.levels import MIXTURES, SCENES
from swwatch.toy.recipe import FORMS

# What makes a kind is imported when it is made: clips wait for no torch, and --help for no numpy.


@dataclass(frozen=True, kw_only=True)
class ToyData:
    """Short mp4 clips of moving shapes with captions, train and test split."""

    out: Path = setting(REQUIRED, "root folder of the data set: new, empty or ours", positional=True)
    clips: int = setting(REQUIRED, "number of training clips")
    test_clips: int = setting(60, "number of test clips")
    seed: int = setting(0, "another seed gives other clips")
    level: str = setting("single", f"what the scenes are made of: {', '.join([*SCENES, *MIXTURES])}")
    form: str = setting("json", f"json and mp4 files, or tar shards: {', '.join(FORMS)}")
    noise: float = setting(0.0, "share of records to be filtered out")
    workers: int = setting(os.cpu_count() or 1, "processes")

    def make(self) -> None:
        from swwatch.toy.clips import Recipe, write_dataset

        recipe = Recipe(self.clips, self.test_clips, self.seed, self.level, self.form, self.noise)
        num_new = write_dataset(self.out, recipe, workers=self.workers)
        print(f"{self.clips} training and {self.test_clips} test clips ({num_new} of them new) are in {self.out}")
        print(f"next: python mani_data.py --dataset-root {self.out} --tokenizer-model-id CHECKPOINT")


@dataclass(frozen=True, kw_only=True)
class ToyFunqa:
    """The same clips with questions, in FunQA's official form."""

    out: Path = setting(REQUIRED, "root folder of the data set: new, empty or ours", positional=True)
    clips: int = setting(REQUIRED, "number of training videos")
    test_clips: int = setting(60, "videos of val and of test")
    seed: int = setting(0, "another seed gives other videos")
    noise: float = setting(0.1, "share to be filtered out")

    def make(self) -> None:
        from swwatch.toy.funqa import FunqaRecipe, write_funqa

        num_new = write_funqa(self.out, FunqaRecipe(self.clips, self.test_clips, self.seed, self.noise))
        counts = f"{self.clips} training, {self.test_clips} val and test videos"
        print(f"{counts} ({num_new} of them new) are in {self.out}")
        print(f"next: python mani_data.py --task funqa --dataset-root {self.out} --tokenizer-model-id CHECKPOINT")


@dataclass(frozen=True, kw_only=True)
class ToyTranscripts:
    """What is said of the clips of `toy data`, word by word with its times."""

    out: Path = setting(REQUIRED, "root folder of the clips", positional=True)

    def make(self) -> None:
        from swwatch.toy.commentary import write_transcripts

        with writing(self.out):
            counts = write_transcripts(self.out)
        for path, count in counts.items():
            print(f"the words of {count} clips are in {path}")
        print("next: swwatch chunk TRANSCRIPTS OUT --window 6 --overlap 2 --min-words 6")


@dataclass(frozen=True, kw_only=True)
class ToyQuestions:
    """What may be asked of the clips of a world: multiple choice for `swwatch quiz`, and conversations to train on."""

    out: Path = setting(REQUIRED, "root folder of the clips", positional=True)

    def make(self) -> None:
        from swwatch.toy.questions import write_questions

        with writing(self.out):
            counts = write_questions(self.out)
        for path, count in counts.items():
            print(f"questions about {count} clips are in {path}")
        data = next(path for path in counts if path.suffix == ".json")
        print(f"next: swwatch quiz streamingbench --data {data} --videos {self.out} --model CHECKPOINT")


@dataclass(frozen=True, kw_only=True)
class ToyModel:
    """A checkpoint folder of 1.6 M random weights."""

    out: Path = setting(REQUIRED, "the folder to make: new, empty or ours", positional=True)
    seed: int = setting(0, "seed of the weights")
    family: str = setting("qwen2_5_vl", f"of the model: {', '.join(FAMILIES)}")

    def __post_init__(self):
        look_up(FAMILIES, self.family, "family")

    def make(self) -> None:
        from swwatch.toy.checkpoint import make_checkpoint

        print(f"the toy checkpoint is in {make_checkpoint(self.out, family=self.family, seed=self.seed)}")


KINDS = {"data": ToyData, "questions": ToyQuestions, "funqa": ToyFunqa}
KINDS |= {"transcripts": ToyTranscripts, "model": ToyModel}


def main(argv: list[str]) -> int:
    about = {name: kind.__doc__ for name, kind in KINDS.items()}
    name = choose_kind(argv, program="swwatch toy", about=__doc__, kinds=about)
    read_settings(KINDS[name], argv[1:], program=f"swwatch toy {name}", about=KINDS[name].__doc__).make()
    return 0
