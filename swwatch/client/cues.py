"""What was said when, as cues: the words of one step, or of one chat turn. In WebVTT, and in SubRip made of it."""

import html
import re
from collections.abc import Iterable
from typing import NamedTuple

from swwatch.client.protocol import Decided, End, Event, Token, Turn

LAST_CUE_S = 2.0  # how long the last words stay, and an answer
CUE = re.compile(r"^(\d+:\d\d:\d\d)\.(\d{3}) --> (\d+:\d\d:\d\d)\.(\d{3})\n(.+)\n", re.M)


class Cue(NamedTuple):
    """Seconds of the stream's clock, and what was said: one line."""

    start_s: float
    end_s: float
    text: str

    def vtt(self) -> str:
        """As WebVTT has it, with the empty line before it."""
        text = self.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return f"\n{_stamp(self.start_s)} --> {_stamp(max(self.end_s, self.start_s + 0.001))}\n{text}\n"


class Cues:
    """Makes cues of the events of one session.

    Attributes:
        held: tokens whose cue is not whole yet.
    """

    def __init__(self, held: Iterable[Token] = ()):
        self.held = list(held)

    def of(self, event: Event) -> Cue | None:
        """The cue that ends with an event; None where none does, or nothing was said."""
        match event:
            case Token():
                cue = self._end(event.t_emit_s) if self.held and event.step != self.held[0].step else None
                self.held.append(event)
                return cue
            case Decided(tokens=0) if self.held:  # silence ends what is shown
                return self._end(min(event.t_s, self.held[-1].t_emit_s + LAST_CUE_S))
            case Turn(thought=True):  # nobody is told
                self.held = []
            case Turn():
                self.held = []
                is_answer = event.start_s == event.end_s  # an answer, about no seconds of its own
                return _cue(event.start_s, event.end_s + is_answer * LAST_CUE_S, event.text)
            case End():
                return self.last()
        return None

    def last(self) -> Cue | None:
        """The cue of what is held: nothing more is said."""
        return self._end(self.held[-1].t_emit_s + LAST_CUE_S) if self.held else None

    def _end(self, end_s: float) -> Cue | None:
        start_s, text = self.held[0].t_emit_s, "".join(token.text for token in self.held)
        self.held = []
        return _cue(start_s, end_s, text)


def _cue(start_s: float, end_s: float, text: str) -> Cue | None:
    text = " ".join(text.split())
    return Cue(start_s, end_s, text) if text else None


def _stamp(seconds: float) -> str:
    """WebVTT's hh:mm:ss.ttt."""
    ms = max(0, round(seconds * 1000))
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}.{ms % 1000:03}"


def srt_of(vtt: str) -> str:
    """SubRip with the whole cues of a WebVTT file of ours, which may still grow."""
    cues = enumerate(CUE.findall(vtt), start=1)
    return "".join(f"{n}\n{a},{b} --> {c},{d}\n{html.unescape(text)}\n\n" for n, (a, b, c, d, text) in cues)
