"""Work for watchers, and models that take their time or fail, for tests that provoke races."""

import random
import time

from swwatch.engine.requests import Look
from swwatch.engine.watcher import Work
from swwatch.rules.cursor import Cursor
from swwatch.rules.variants import VARIANTS


def work_of(loaded, stream, variant="group") -> list[Work]:
    """A stream's prompt and steps, each as a piece of work; the suffix goes with the last step."""
    cursor, suffix = Cursor(VARIANTS[variant], loaded.model.t_per_step), loaded.markup.suffix
    pieces = [Work(cursor.prompt(len(stream.prompt)), (tuple(stream.prompt),))]
    for i, (pixels, grid, merged) in enumerate(zip(stream.pixels, stream.grids, stream.merged, strict=True)):
        rows, parts = cursor.watch(*merged), (Look(pixels, grid),)
        if i == len(stream.grids) - 1:
            rows, parts = rows.cat([rows, cursor.suffix(len(suffix))]), (*parts, tuple(suffix))
        pieces.append(Work(rows, parts))
    return pieces


class Hesitant:
    """A model that waits for a random while before each call, and cannot watch one picture that it is told."""

    def __init__(self, model, seed=0, most_s=0.003):
        self.model, self.chance, self.most_s = model, random.Random(seed), most_s
        self.failing = None

    def __getattr__(self, name):
        return getattr(self.model, name)

    def another(self):
        return self

    def watch_video(self, pixel_values, grid_thw):
        time.sleep(self.chance.uniform(0, self.most_s))
        if pixel_values is self.failing:
            raise ArithmeticError("this picture cannot be watched")
        return self.model.watch_video(pixel_values, grid_thw)

    def step(self, *args, **more):
        time.sleep(self.chance.uniform(0, self.most_s))
        return self.model.step(*args, **more)


def hesitant_copy(copy, most_s: float):
    """For a ProcessWatcher to make: a copy of a model that hesitates."""
    return Hesitant(copy.on("cpu"), most_s=most_s)


def no_model():
    """For a ProcessWatcher to fail at."""
    raise ArithmeticError("there is no such model")
