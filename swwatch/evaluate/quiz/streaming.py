"""Questions to a model that watches turn by turn, put to the state that it then has."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from swwatch.data.budget import PixelBudget
from swwatch.data.pixels import FrameEncoder
from swwatch.data.video import StepFrames, iter_steps
from swwatch.engine.door import open_stream
from swwatch.engine.requests import Run, drive
from swwatch.engine.source import Step
from swwatch.engine.trace import Said
from swwatch.engine.turns import TurnSession
from swwatch.errors import UserError
from swwatch.evaluate.quiz.asking import Answered, choice_tokens, choose, reply_of
from swwatch.evaluate.quiz.frames import span
from swwatch.evaluate.quiz.items import Item
from swwatch.evaluate.quiz.rounds import ask_all
from swwatch.evaluate.quiz.tasks import Form
from swwatch.model.loading import Loaded
from swwatch.policies.keep import with_numbers
from swwatch.rules.systems import SYSTEMS


class Streaming:
    """Asks a model that has watched the video turn by turn, on the state that it then has.

    A video is watched once for all of its questions, in the order of their ends; each is asked on a copy of the state
    and leaves no trace. While watching the model says nothing (" ..."), but thinks if its system does. What its system
    forgets is forgotten: that is what is measured. Whole steps alone are watched, and no frame is left out.

    Args:
        options: of engine.door.open_stream.
    """

    streams = True

    def __init__(self, loaded: Loaded, form: Form, budget: PixelBudget, *, eviction: str | None = None, **options):
        self.loaded, self.form, self.options, self.eviction = loaded, form, options, eviction
        self.system = SYSTEMS.get(loaded.settings.variant)
        if self.system is None:
            known = ", ".join(SYSTEMS)
            raise UserError(f"{loaded.settings.variant!r} does not stream in turns: give --variant, one of {known}")
        self.fps = loaded.settings.fps
        self.options["keep"] = with_numbers(loaded.settings.own_keep, eviction, {})
        self.encoder = FrameEncoder(loaded.processor.video_processor, budget)

    def describe(self) -> dict:
        where = self.options.get("policy") or self.system.positions
        eviction = self.eviction or self.options["keep"].name
        how = f"streaming as {self.system.name} ({eviction}, {where})"
        facts = {"how": how, "positions": where, "eviction": eviction}
        own = self.loaded.settings
        facts |= {} if own.think is None else {"think": str(own.think)}
        return facts if own.keep is None else facts | {"keep": str(self.options["keep"])}

    def units(self, items: Sequence[Item]) -> list[list[Item]]:
        units: dict[tuple, list[Item]] = {}
        for item in items:
            if item.frames_per_second:
                raise UserError(f"{item.group}: a folder of pictures is no stream: leave --streaming out")
            alone = item.key if item.moment or item.rounds else None  # it is asked again and again, on its way
            units.setdefault((item.video, span(item, self.fps)[0], alone), []).append(item)
        return [sorted(unit, key=lambda item: span(item, self.fps)[1]) for unit in units.values()]

    def answers(self, items: Sequence[Item], path: Path) -> Iterator[tuple[Item, Answered | UserError]]:
        watching = _Watching(self, path, span(items[0], self.fps)[0])
        for item in items:
            yield item, ask_all(item, watching.ask, self.loaded.settings.step_s, self.form)

    def ask(self, session: TurnSession, item: Item, seconds: tuple[float, float]) -> Answered | UserError:
        """Put a question to a copy of a stream; its steps that wait for their turn make a short one of it."""
        if seconds[1] <= seconds[0]:
            return UserError(f"the question {item.key} is asked before the first step is over")
        num_frames, began = round((seconds[1] - seconds[0]) * self.fps), time.perf_counter()
        snapshot, thinks = session.state(), session.thinks
        try:
            # aside, the question is asked before the newest is thought about
            session.thinks = thinks and not self.system.aside
            self._drive(session.advance([]))
            num_tokens = sum(map(len, session.context))
            if self.form.reply:
                run = drive(self.loaded.model, session.answer(item.prompt, self.form.reply))
                (said,) = [event.words for event in run if isinstance(event, Said)]
                answered = Answered(*reply_of(self.loaded.tokenizer, said), num_frames, seconds)
            else:
                beginning, tokens = choice_tokens(self.loaded.tokenizer, self.form, item.choices)
                answered = choose(self._drive(session.probe(item.prompt, beginning)), tokens, num_frames, seconds)
        except UserError as error:
            return error
        finally:
            session.thinks = thinks
            session.restore(snapshot)
        return replace(answered, num_tokens=num_tokens, took_s=time.perf_counter() - began)

    def step(self, frames: StepFrames, start_s: float) -> Step:
        arrival_s = frames.arrival_s - (self.first_s(start_s) if self.system.clip_time else 0)
        return Step(*self.encoder.encode(frames.frames, None), arrival_s)  # its length is unknown yet

    def first_s(self, start_s: float) -> float:
        """Where the first whole step from there on begins."""
        step_s = self.loaded.settings.step_s
        return -(-start_s // step_s) * step_s

    def _drive(self, run: Run):
        """Run to the end; what it returns."""
        returned = []

        def whole() -> Run:
            returned.append((yield from run))

        for _ in drive(self.loaded.model, whole()):
            pass
        return returned[0]


class _Watching:
    """One pass through a video, from `start_s` on; each question is put when the steps before it are watched."""

    def __init__(self, asker: Streaming, path: Path, start_s: float):
        self._asker, self._path, self._start_s, self._seen_s = asker, path, start_s, start_s
        self._session = open_stream(asker.loaded, question="", **asker.options)  # no commentary is asked for
        self._session.paused = True
        self._steps, self._next_step = None, 0

    def ask(self, item: Item) -> Answered | UserError:
        self._watch(span(item, self._asker.fps)[1])
        return self._asker.ask(self._session, item, (self._start_s, self._seen_s))

    def _watch(self, end_s: float) -> None:
        """The whole steps up to there, as far as there are some; later ones are not decoded."""
        if self._steps is None:
            self._steps = iter_steps(self._path, max_frames=None, fps=self._asker.fps)
        step_s = self._asker.loaded.settings.step_s
        while (self._next_step + 1) * step_s <= end_s and (frames := next(self._steps, None)) is not None:
            self._next_step = frames.step + 1
            if frames.step * step_s >= self._start_s:
                step = self._asker.step(frames, self._start_s)
                self._asker._drive(self._session.advance([step]))
                self._seen_s = self._next_step * step_s
