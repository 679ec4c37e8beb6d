"""The baseline of the benchmark: what the papers' public release does with a stream.

When a step has arrived, everything is run again: all frames so far through the vision tower, prompt, video and all
that was said through the LLM with an empty cache. That gives the step's first token; its further ones are decoded one
by one with the cache of this step, which is then thrown away. Nothing is kept between steps, so the tokens that T
steps cost grow with T squared. Positions and visibility are the variant's: it says what the serial engine says.
"""

import torch

from swwatch.data.pixels import merged_grids
from swwatch.engine.base import stop_ids
from swwatch.engine.requests import Feed, Look, Run, Wait
from swwatch.engine.source import Source, Step
from swwatch.engine.trace import SimulatedClock, Spoken
from swwatch.errors import UserError
from swwatch.policies.choose import Choosing, Greedy
from swwatch.policies.chooser import Chooser
from swwatch.policies.see import ALL
from swwatch.rules import variants
from swwatch.rules.cursor import Cursor
from swwatch.rules.layout import Kind, Layout
from swwatch.rules.patch import Patch
from swwatch.rules.schedule import Now, Schedule
from swwatch.rules.variants import Speaks
from swwatch.rules.visibility import SAID


class Reprefill:
    """One stream, as a coroutine like the sessions of the engines: `run` it with `requests.drive`.

    Attributes:
        num_fed: tokens that went through the LLM; num_looked: patches that went through the vision tower.
    """

    def __init__(
        self, model, prompt: list[int], *, schedule: Schedule | None = None, choose: Choosing | None = None, clock=None
    ):
        """Arguments as for the engines' sessions.

        Raises:
            UserError: the variant speaks after the whole video, so that there is nothing to run again.
        """
        self.model, self.markup = model, model.markup
        self.variant = variants.get(model.settings.variant)
        if self.variant.speaks is Speaks.OFFLINE:
            raise UserError(f"reprefill runs every step again, and {self.variant.name!r} speaks after the last alone")
        if model.settings.see != ALL:
            raise UserError(f"reprefill looks at all anew, and the checkpoint sees {model.settings.see}: leave it out")
        self.schedule, choose = schedule or model.settings.schedule, choose or Greedy()
        self.clock = clock or SimulatedClock()
        self.cursor = Cursor(self.variant, model.t_per_step)
        self.rows = [self.cursor.prompt(len(prompt))]  # in order of arrival
        self.ids: list[list[int] | None] = [list(prompt)]  # of each of these; None: video tokens
        self.steps: list[Step] = []
        self.num_fed = self.num_looked = self.num_spoken = 0
        self.stops = stop_ids(model)
        vocab_size = model.config.text_config.vocab_size
        self.chooser = Chooser(choose.settled(model.generation_config), vocab_size, model.device, stops=self.stops)
        self.chooser.see([*prompt, self.markup.video])

    def run(self, source: Source) -> Run:
        """Watch a source to its end; yields requests and what is said."""
        while not (self.steps and self.steps[-1].last):
            while (step := source.poll()) is None:
                if source.ended:
                    raise UserError("reprefill is a benchmark's baseline: its source must mark the last step")
                yield Wait(source)
            self.steps.append(step)
            yield from self._speak(step, *self._arrived(step))

    def _arrived(self, step: Step) -> tuple[int, int]:
        """Lay the step out. Returns its number and how many tokens may be said."""
        number = self.cursor.num_steps
        (grid,) = merged_grids(step.grid_thw, self.model.config.vision_config.spatial_merge_size)
        (patch,) = self.markup.announced([Patch(*grid)], number)
        rows = self.cursor.watch(*patch)
        video_end = len(rows) - patch.after
        self._add(rows[: patch.before], self.markup.before(number))
        self._add(rows[patch.before : video_end], None)
        self._add(rows[video_end:], self.markup.closing)
        self.chooser.see(self.markup.around([number]))
        budget = self.chooser.choose.left(self.num_spoken)
        if step.last:
            self._add(self.cursor.suffix(len(self.markup.suffix)), self.markup.suffix)
            self.chooser.see(self.markup.suffix)
        else:
            budget = min(self.schedule.budget(Now(number, step.arrival_s)), budget)
        if number == 0:
            self._add(self.cursor.say(len(self.markup.header), 0, Kind.HEADER), self.markup.header)
            self.chooser.see(self.markup.header)
        return number, budget

    def _add(self, rows: Layout, ids) -> None:
        if len(rows):
            self.rows.append(rows)
            self.ids.append(None if ids is None else list(ids))

    def _speak(self, step: Step, number: int, budget: int) -> Run:
        if budget <= 0:
            return
        cache = self.model.new_cache()
        embeds = yield from self._everything()
        at = [i for i, rows in enumerate(self.rows) if int(rows.stream[-1]) == SAID] or [len(self.rows) - 1]
        self.rows[at[-1]].sees[-1] = number  # the newest word predicts now (in one sequence: the newest row of all)
        predicts = sum(map(len, self.rows[: at[-1] + 1])) - 1
        rows = Layout.cat(self.rows)
        while True:
            logits = yield Feed(cache, rows, embeds.to(self.model.dtype), predicts)
            self.num_fed += len(rows)
            token = self.chooser.pick(logits, step.last or self.chooser.choose.stop_early)
            self.num_spoken += 1
            budget -= 1
            yield Spoken(number, token, number, step.arrival_s, self.clock.now())
            rows, predicts = self.cursor.say(1, number), 0
            self._add(rows, [token])
            if not budget or token in self.stops:
                return
            embeds = self.model.embed([token])

    def _everything(self) -> Run:
        """Embeddings of all rows so far; all frames go through the vision tower again."""
        pixels, grids = ([getattr(step, name) for step in self.steps] for name in ("pixel_values", "grid_thw"))
        self.num_looked += sum(len(part) for part in pixels)
        video = yield Look(torch.cat(pixels), torch.cat(grids))
        parts, at = [], 0
        for rows, ids in zip(self.rows, self.ids, strict=True):
            if ids is None:
                parts.append(video[at : at + len(rows)])
                at += len(rows)
            else:
                parts.append(self.model.embed(ids).to(video.dtype))
        return torch.cat(parts)
