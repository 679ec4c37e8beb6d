"""Moments without being asked: a model that watches and speaks by itself, and when it did."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from swwatch.data.video import iter_steps
from swwatch.engine.requests import drive
from swwatch.engine.source import StepEncoder
from swwatch.errors import UserError
from swwatch.evaluate.quiz.asking import Answered
from swwatch.evaluate.quiz.items import Item, Moment
from swwatch.evaluate.quiz.rounds import says, timed
from swwatch.evaluate.quiz.tasks import Form
from swwatch.model.loading import Loaded
from swwatch.narrate.words import Token, Turn, narration
from swwatch.rules import variants
from swwatch.rules.systems import SYSTEMS
from swwatch.rules.variants import TURNS, Speaks

MOST = 64  # tokens of the last second, behind which nothing more is heard


class Itself:
    """Narrates the seconds before and around a moment, told from the beginning what to wait for.

    Words count from when the moment is asked for; their time is the end of the newest second that they could have
    seen, of the file, whatever the computing took.

    Args:
        schedule: of a narration, in words; "" of a chat system.
    """

    streams = True

    def __init__(self, loaded: Loaded, form: Form, schedule: str):
        if variants.get(loaded.settings.variant).speaks is Speaks.OFFLINE:
            raise UserError(
                f"{loaded.settings.variant!r} speaks when all is over: leave --unasked out, or give another --variant"
            )
        if (name := loaded.settings.variant) in SYSTEMS and SYSTEMS[name].thinks:
            raise UserError(
                f"{name} thinks, and speaks when it is asked alone: give --streaming in place of --unasked"
            )
        self.loaded, self.form, self.schedule = loaded, form, schedule
        self._encode = StepEncoder(loaded)
        self.encoder = self._encode.frames

    def describe(self) -> dict:
        own = self.loaded.settings
        facts = {"how": f"speaking by itself ({', '.join(filter(None, [own.variant, self.schedule]))})"}
        thinks = {} if own.think is None else {"think": str(own.think)}  # a run of before knows nothing of it
        return facts | {"speak": self.schedule, "keep": str(own.own_keep), "choose": str(own.own_choose)} | thinks

    def units(self, items: Sequence[Item]) -> list[list[Item]]:
        return [[item] for item in items]

    def answers(self, items: Sequence[Item], path: Path) -> Iterator[tuple[Item, Answered | UserError]]:
        for item in items:
            yield item, self._listen(item, item.moment, path)

    def _listen(self, item: Item, moment: Moment, path: Path) -> Answered:
        began, spoken = time.perf_counter(), self._spoken(item, moment, path)
        said_s = first_time(moment, spoken)
        words = "".join(text for at_s, text in spoken if said_s is not None and at_s >= said_s).strip()
        seconds = (item.start_s, moment.last_s)
        num_frames = round((seconds[1] - seconds[0]) * self.loaded.settings.fps)
        took_s = time.perf_counter() - began
        return Answered(words, {}, {}, num_frames, seconds, took_s=took_s, more=timed(moment, said_s))

    def _spoken(self, item: Item, moment: Moment, path: Path) -> list[tuple[float, str]]:
        """(seconds of the file, words) of all that was said."""
        own = self.loaded.settings
        in_turns = own.variant in TURNS
        limit = {} if in_turns else {"max_new_tokens": None}  # it may have to wait for long, and to speak meanwhile
        steps = iter_steps(path, max_frames=None, fps=own.fps, span=(item.start_s, moment.last_s))
        how = {"question": moment.instruction, "clip_key": item.key, "encode": self._encode}
        run = narration(self.loaded, steps, **how, **limit)
        said: list[tuple[float, str]] = []
        for event in drive(self.loaded.model, run):
            if len(said) >= MOST and said[-MOST][0] + own.step_s > moment.last_s:
                break
            if in_turns and isinstance(event, Turn) and event.text:
                said.append((item.start_s + event.end_s, f"{event.text} "))
            elif not in_turns and isinstance(event, Token):
                said.append((item.start_s + (event.newest_visible_step + 1) * own.step_s, event.text))
        return said


def first_time(moment: Moment, spoken: Sequence[tuple[float, str]]) -> float | None:
    """When it was first said that it is time: the word of the moment or, where words of its own are awaited, any."""
    heard = ""
    for at_s, text in spoken:
        if at_s < moment.asked_s:
            continue
        heard += text
        if says(heard, moment.word) if not moment.output else heard.strip():
            return at_s
    return None
