"""A narration that shows how far behind the picture it is, second by second.

Events are those of an engine (narrate.Token, trace.Watched) or a server's messages of the same fields, so nothing here
needs torch.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import median


def kind_of(event: object) -> str:
    """What an event is called in files and messages: `watched`, `token`, `turn`; here and in the protocol alike."""
    return type(event).__name__.lower()


@dataclass
class Second:
    """One step of the video, which lasts `step_s`: when it arrived, was watched and was spoken about, in seconds of
    stream time."""

    step: int
    arrival_s: float
    step_s: float
    watched_s: float | None = None
    first_s: float | None = None  # of its first token
    last_s: float | None = None  # of its last

    @property
    def behind_s(self) -> float:
        """How much later than the next step's arrival all of this one was done; nothing where it kept up."""
        done_s = max(at for at in (self.watched_s, self.last_s, self.arrival_s) if at is not None)
        return max(0.0, done_s - self.arrival_s - self.step_s)

    def delay(self, at_s: float | None) -> str:
        return "     -" if at_s is None else f"{at_s - self.arrival_s:6.2f}"


class Aside:
    """What was thought while the words of a step were said, for a line of its own: dim, where a terminal can."""

    def __init__(self, out):
        self._dim, self._thoughts = ("\x1b[2m{}\x1b[0m" if out.isatty() else "{}"), []

    def take(self, event) -> None:
        """Note a Thought."""
        self._thoughts.append(event)

    def line(self, before: float = math.inf, about: str = "") -> str:
        """What came together at steps before this one since the last call, or "". `about` says what it is about."""
        thoughts = [event for event in self._thoughts if event.step < before]
        self._thoughts = self._thoughts[len(thoughts) :]
        text = "".join(" / " * (event.begins and i > 0) + event.text for i, event in enumerate(thoughts)).strip()
        return "\n" + self._dim.format(f"  (thinks{about}) {text}".replace("\n", " ")) if text else ""

    def turn(self, event) -> str:
        """The thought of a chat turn that is over."""
        return self.line(about=f" about {event.start_s:g}-{event.end_s:g} s")


def span_of(turn) -> str:
    """The seconds that what was said in a chat turn is about, or when it was asked for."""
    return f"at {turn.end_s:g} s" if turn.start_s == turn.end_s else f"{turn.start_s:g}-{turn.end_s:g} s"


def show_lag(
    events: Iterable, step_s: float, out=None, notice: Callable[[object], str | None] = lambda event: None
) -> Iterator:
    """Print a line for each step of video, which lasts `step_s`, words as they are spoken; pass all events on.

    A line tells what had been seen, how long after its arrival the step was watched and the first word about it
    came, the words, of a chat turn the seconds that they are about, and whether all was done before the next step
    arrived. The last line, where the rest of the answer is spoken, has no such limit. What `notice` has to say about
    an event stands on a line of its own.
    """
    out = out or sys.stdout
    seconds: list[Second] = []  # their lines are begun, the last one's is open
    watched: dict[int, object] = {}
    broken = False  # a notice stands behind the words
    aside = Aside(out)

    def write(text: str) -> None:
        print(text, end="", file=out, flush=True)

    def open_line(second: Second, is_first_word: bool) -> None:
        if seconds:
            close_line(seconds[-1])
            write(aside.line(second.step))
        seen = watched.get(second.step)
        second.watched_s = None if seen is None else seen.t_s
        seconds.append(second)
        first = second.delay(second.first_s if is_first_word else None)
        until = f"{(second.step + 1) * step_s:g}"
        write(f"\nseen 0-{until:<3} s  watched +{second.delay(second.watched_s)}  word +{first} |")

    def close_line(second: Second) -> None:
        if second.behind_s:
            write(("\n  ..." if broken else "") + f"  ({second.behind_s:.2f} s behind)")

    def open_silent(upto: int) -> None:
        """The lines of steps before `upto` that had no words."""
        begin = seconds[-1].step + 1 if seconds else 0
        for step in range(begin, upto):
            if step in watched:
                open_line(Second(step, watched[step].arrival_s, step_s), is_first_word=False)

    for event in events:
        if text := notice(event):
            write(f"\n  [{text}]")
            broken = True
        kind = kind_of(event)
        if kind == "watched":
            watched[event.step] = event
            open_silent(event.step - 1)  # watched at most one step ahead: those before that have had their words
        elif kind == "token":
            step = event.newest_visible_step
            open_silent(step)
            if not seconds or seconds[-1].step < step:
                open_line(Second(step, event.t_frame_s, step_s, first_s=event.t_emit_s), is_first_word=True)
                write("" if event.text.startswith(" ") else " ")
            elif broken:
                write("\n  ...")
            broken = False
            seconds[-1].last_s = event.t_emit_s
            write(event.text.replace("\n", " "))
        elif kind == "thought":
            aside.take(event)
        elif kind == "turn":
            open_silent(max(watched) + 1)
            write(aside.turn(event) if event.thought else f" ({span_of(event)}{'' if event.text else ', silent'})")
            broken |= event.thought
        yield event
    open_silent(max(watched, default=-1) + 1)
    print(aside.line(), file=out)
    print(summary(seconds), file=out, flush=True)


def summary(seconds: list[Second]) -> str:
    """One line on a whole run; the last second, which has no limit, is left out of what kept up."""
    num_on_time = sum(not second.behind_s for second in seconds[:-1])
    lags = {
        "watched": [s.watched_s - s.arrival_s for s in seconds if s.watched_s is not None],
        "first word": [s.first_s - s.arrival_s for s in seconds if s.first_s is not None],
    }
    parts = [f"{name} +{median(v):.2f} s (median), +{max(v):.2f} s (most)" for name, v in lags.items() if v]
    unit = "seconds" if all(second.step_s == 1 for second in seconds) else f"steps of {seconds[0].step_s:g} s"
    return "; ".join([f"kept up in {num_on_time} of {len(seconds[:-1])} {unit}", *parts])
