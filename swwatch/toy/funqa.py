"""A toy FunQA in the official form: videos of moving shapes, and two kinds of questions about each.

Under the data set's root:
    FunQA/annotation_with_ID/funqa_<train|val|test>.json   a list of {instruction, visual_input, output, task, ID}
    FunQA/<split>_<humor|creative|magic>/<name>.mp4
Humour shows one shape at a time, creativity two at once, magic shapes that change their colour. A description (task 2)
tells the shapes and their ways as a toy caption does, a reasoning (task 3) begins with the way: only the question says
which is wanted. Moments (1), titles (4) and scores (5) are there too, to be left out by the preparation.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import ClassVar

import numpy as np
from tqdm import tqdm

from swwatch.toy.clips import FRAME_RATES, claimed, encode, write_whole
from swwatch.toy.recipe import DataRecipe
from swwatch.toy.world import Scene, make_scene

NAME = "FunQA"
SPLITS = ("train", "val", "test")
LEVELS = {"humor": "single", "creative": "pair", "magic": "recolor"}
QUESTIONS = {
    "2": ("What is shown in this video?", "Describe the key objects in the video."),
    "3": ("What movements can be observed in the video?", "Describe the movements in this video."),
}
FLAWS = ("too short", "too long", "terse", "wordy", "empty")  # of videos and answers that the filter must drop


@dataclass(frozen=True)
class FunqaRecipe(DataRecipe):
    """Everything that decides the content: numbers of videos, seed, share of videos that the filter must drop."""

    least: ClassVar[int] = 1

    noise: float = 0.1
    task: str = "funqa"


@dataclass(frozen=True)
class Video:
    """One toy video with its kind, its scene and what is wrong with it, if anything."""

    split: str
    index: int
    kind: str
    scene: Scene
    flaw: str | None

    @property
    def name(self) -> str:
        """As FunQA names cuts of longer videos: the first letter tells the kind."""
        return f"{self.kind[0].upper()}_T_{self.index}_0000_{round(self.scene.duration_s * 10):04d}.mp4"

    @property
    def path(self) -> str:
        return f"{NAME}/{self.split}_{self.kind}/{self.name}"


def write_funqa(root: Path, recipe: FunqaRecipe) -> int:
    """Make a toy FunQA, or what is missing of it after an interruption; returns how many videos were made.

    Raises:
        UserError: `root` holds something else, or a toy data set of another recipe.
    """
    root = Path(root)
    with claimed(root, recipe):
        return _make_missing(root, recipe)


def _make_missing(root: Path, recipe: FunqaRecipe) -> int:
    num_new = 0
    for split in SPLITS:
        questions = []
        for video in tqdm(list(videos(recipe, split)), desc=f"toy FunQA, {split}", unit="video"):
            path = root / video.path
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, encode(video.scene, FRAME_RATES[video.index % len(FRAME_RATES)]))
                num_new += 1
            questions += questions_about(video, recipe.seed)
        for number, question in enumerate(questions):
            question["ID"] = f"{split}_{number}"
        target = root / NAME / "annotation_with_ID" / f"funqa_{split}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, json.dumps(questions, indent=1).encode() + b"\n")
    return num_new


def videos(recipe: FunqaRecipe, split: str) -> Iterator[Video]:
    """The videos of a split; the three kinds take turns."""
    number = SPLITS.index(split)
    for index, (kind, level) in zip(range(recipe.num_clips(split)), cycle(LEVELS.items()), strict=False):
        rng = np.random.default_rng([recipe.seed, index, number, 2_000_000])
        flaw = str(rng.choice(FLAWS)) if rng.random() < recipe.noise else None
        drawn_from = "train" if split == "train" else "test"
        scene = make_scene(recipe.seed, number * 1_000_000 + index, level=level, split=drawn_from)
        at_once = len(scene.tracks) // len({track.event.start_s for track in scene.tracks})
        if flaw in FLAWS[:2]:
            seconds_each = scene.tracks[0].event.end_s
            scene = of_length(scene, 4 if flaw == "too short" else 32, at_once, seconds_each)
        yield Video(split, index, kind, scene, flaw)


def of_length(scene: Scene, seconds: float, at_once: int, seconds_each: float) -> Scene:
    """The scene's events over and over until `seconds` are full."""
    tracks = []
    for i, track in enumerate(islice(cycle(scene.tracks), round(seconds / seconds_each) * at_once)):
        start_s = i // at_once * seconds_each
        tracks.append(replace(track, event=replace(track.event, start_s=start_s, end_s=start_s + seconds_each)))
    return Scene(scene.level, tuple(tracks))


def questions_about(video: Video, seed: int) -> list[dict]:
    """The annotations of a video but for their IDs."""
    rng = np.random.default_rng([seed, video.index, SPLITS.index(video.split), 3_000_000])
    letter, end = video.kind[0].upper(), round(video.scene.duration_s * 10)
    rows = [(f"{letter}1", "When is the action in the video?", f"[0, {end}]")]
    for number, answer in (("2", video.scene.caption), ("3", reasoning(video.scene))):
        rows.append((letter + number, str(rng.choice(QUESTIONS[number])), flawed(answer, video.flaw)))
    if video.kind != "magic":
        rows.append((f"{letter}4", "Summarize the video.", "Objects in activity."))
    if video.kind == "creative":
        rows.append(("C5", "What is the key of the video?", str(rng.integers(1, 21))))
    spaces = (" " * int(rng.integers(0, 2)) for _ in rows)  # official answers begin with a space now and then
    return [
        {"instruction": question, "visual_input": video.name, "output": space + answer, "task": task}
        for (task, question, answer), space in zip(rows, spaces, strict=True)
    ]


def reasoning(scene: Scene) -> str:
    """All events, told from the way to the shape, such as "What is moving left is a red circle."."""
    parts = []
    for event in scene.events:
        before, _, way = event.words().partition(" moving ")
        parts.append(f"moving {way} is {before}")
    return f"What is {', '.join(parts)}."


def flawed(answer: str, flaw: str | None) -> str:
    if flaw == "empty":
        return ""
    if flaw == "wordy":
        return f"{answer} {answer}"
    return " ".join(answer.split()[:8]) + "." if flaw == "terse" else answer
