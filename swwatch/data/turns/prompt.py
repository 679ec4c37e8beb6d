"""From strings to the spans of a conversation in turns: the one form that training and streaming share.

Every piece is tokenised by itself, so that the ids of a turn are the same whether its words are read from a
transcript or spoken by the model.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache

import yaml

from swwatch.data.prompt import refuse_markup
from swwatch.errors import UserError
from swwatch.paths import CONFIGS
from swwatch.rules.schedule import tenths
from swwatch.rules.spans import Part, Span
from swwatch.rules.systems import LABEL, System

SYSTEM_TEXT = "You are a helpful assistant."
Grid = tuple[int, int, int]  # of a video: patches, rows and columns after the merge
ROLES = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>")
IM_END = "<|im_end|>"


@dataclass(frozen=True)
class Texts:
    """The texts around what a system watches, asks and says; those of ordinary chat, where it names no others.

    Attributes:
        memory: what the turn of previous text begins with.
        opens: behind the system turn, before the first user turn.
        head, tail: what opens and closes a user turn; close: between an answer and the next turn.
        label: of a segment of video; asked: of a question, in systems that think.
        answers: before the first answer of all, where these are one turn.
        note, reply: what begins an answer about a segment of video, or to a question; note_end, reply_end: their ends.
        question_end: behind a question.
    """

    memory: str = ""
    opens: str = ""
    head: str = "<|im_start|>user\n"
    label: str = LABEL
    asked: str = ""
    question_end: str = ""
    tail: str = "<|im_end|>\n"
    answers: str = ""
    note: str = "<|im_start|>assistant\n"
    reply: str = "<|im_start|>assistant\n"
    note_end: str = IM_END
    reply_end: str = IM_END
    close: str = "\n"

    @property
    def ends(self) -> tuple[str, ...]:
        """The tokens that end answers and questions, where they are others than <|im_end|>; in the order of their ids
        in the release."""
        ends = (self.question_end, self.reply_end, self.note_end)
        return tuple(dict.fromkeys(end for end in ends if end not in ("", IM_END)))


@cache
def texts_of(name: str) -> Texts:
    """The texts of a system.

    Raises:
        UserError: configs/thinking.yaml cannot be read, or names what there is not.
    """
    path = CONFIGS / "thinking.yaml"
    try:
        return Texts(**yaml.safe_load(path.read_text(encoding="utf-8")).get(name, {}))
    except (OSError, yaml.YAMLError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: the texts of {name!r} cannot be read ({error!r})") from error


@dataclass(frozen=True)
class Turns:
    """Makes spans with a tokenizer of Qwen's, in the form of a system.

    Attributes:
        stamps: of the family, see rules.families: a time stamp before each patch, which goes when the patch goes.
    Raises:
        UserError: a special token is missing, or a text holds chat markup.
    """

    tokenizer: object
    system: System
    stamps: bool = False

    def __post_init__(self):
        missing = sorted(set(ROLES) - self._special.keys())
        if missing:
            raise UserError(f"the tokenizer lacks {', '.join(missing)}: is this a checkpoint of Qwen2-VL or later?")
        if ends := [end for end in self.texts.ends if end not in self._special]:
            raise UserError(f"the tokenizer lacks {', '.join(ends)}: load the model with --variant {self.system.name}")

    @property
    def texts(self) -> Texts:
        return texts_of(self.system.name)

    def begin(
        self,
        previous: str | Sequence[int] = "",
        system_text: str = SYSTEM_TEXT,
        chat: bool = False,
        before: Sequence[tuple[str, str]] = (),
    ) -> list[Span]:
        """What precedes all turns: the system turn and, in systems that have one, the block of previous text.

        Args:
            previous: words said before, as text, which is taken as it is, or as token ids.
            chat: ordinary chat follows, whose turns open by themselves.
            before: (role, words) of turns of text behind the system's, which stay as long as that does.
        """
        for text in (system_text, *(part for turn in before for part in turn)):
            self._refuse_markup(text)
        turns = (("system", system_text), *before)
        said = "".join(f"<|im_start|>{role}\n{words}<|im_end|>\n" for role, words in turns)
        spans = [Span(Part.SYSTEM, self._ids(said + ("" if chat else self.texts.opens)))]
        if not self.system.previous_text:
            if previous:
                raise UserError(f"{self.system.name} keeps no previous text: put it into the query")
            return spans
        parts = [tuple(previous)]
        if isinstance(previous, str):
            self._refuse_markup(previous)
            lines = re.split(r"(?m)^(?=Time=)", previous) if self.system.thinks else [previous]
            parts = [self._ids(line) for line in lines]  # one for each thought, so that each can go by itself
        head, end = self._ids(f"<|im_start|>previous text\n{self.texts.memory}"), self._ids("<|im_end|>\n")
        return [*spans, Span(Part.AROUND, head), *(Span(Part.PREVIOUS, ids) for ids in parts), Span(Part.AROUND, end)]

    def turn(
        self,
        number: int,
        start_s: float,
        end_s: float,
        grid: tuple[int, int, int] | None,
        query: str | None = None,
        opens: bool | None = None,
    ) -> list[Span]:
        """A user turn, up to where the answer begins.

        Args:
            number: of the turn, from 0.
            start_s, end_s: the seconds of its label.
            grid: of its video, (patches, rows, columns) after the merge; None for a turn of text alone.
            query: asked in this turn, behind the video; "" asks nothing. In a system that thinks it has a turn of its
                own.
            opens: nothing was said before; by default so in turn 0.
        """
        self._refuse_markup(query or "")
        texts = self.texts

        def span(part: Part, text: str) -> Span:
            return Span(part, self._ids(text), None, number, start_s, end_s)

        spans = [span(Part.HEAD, texts.head)]
        if grid is not None:
            spans.append(span(Part.LABEL, texts.label.format(tenths(start_s), tenths(end_s))))
            spans += self._video(grid, (number, start_s, end_s), start_s, (end_s - start_s) / grid[0])
        if query:
            spans.append(span(Part.QUERY, f"{texts.asked.format(tenths(end_s))}{query}{texts.question_end}"))
        first = number == 0 if opens is None else opens
        header = f"{texts.answers if first else ''}{texts.reply if grid is None else texts.note}"
        spans += [span(Part.TAIL, texts.tail), span(Part.HEADER, header)]
        return [span for span in spans if len(span)]

    def answer(self, words: str, reply: bool = False) -> tuple[int, ...]:
        """Ids of a turn's words, which may be none, with what ends them: what is learned, and spoken.

        Args:
            reply: they answer a question, and in a system that thinks are no thought.
        """
        return self._words(words) + self.ellipsis + (self.end(reply),)

    def folded(self, context: Sequence[Span]) -> list[Span]:
        """A context whose thoughts have become previous text, each behind its segment's label; nothing else is left of
        its turns."""
        begin = [span for span in context if span.round < 0]
        labels = {span.round: span for span in context if span.part is Part.LABEL}
        for span in context:
            words = "" if span.part is not Part.ANSWER else self.tokenizer.decode(span.ids, skip_special_tokens=True)
            if span.round in labels and words:
                label = self.texts.label.format(tenths(span.start_s), tenths(span.end_s))
                line = replace(span, part=Part.PREVIOUS, ids=self._ids(f"{label}{words}\n"), round=-1)
                begin.insert(-1, line)  # before what closes the turn
        return begin

    def _video(self, grid: Grid, when: tuple[int, float, float], first_s: float, patch_s: float | None) -> list[Span]:
        """A video and what is around it: its markers, or those of each patch, behind a time stamp.

        Args:
            when: turn and seconds of the spans.
            first_s: where the video begins; patch_s: from one patch to the next, None of an image.
        """
        patches, rows, columns = grid
        pieces = [("", grid)]
        if self.stamps and patch_s is not None:  # the middle of its frames, as in data.prompt.stamp_of
            times_s = [first_s + (patch + 0.25) * patch_s for patch in range(patches)]
            pieces = [(f"<{tenths(time_s)} seconds>", (1, rows, columns)) for time_s in times_s]
        spans = []
        for stamp, size in pieces:
            video = (self._id("<|video_pad|>"),) * (size[0] * rows * columns)
            spans += [
                Span(Part.VISION, self._ids(f"{stamp}<|vision_start|>"), None, *when),
                Span(Part.VIDEO, video, size, *when),
                Span(Part.VISION, self._ids("<|vision_end|>"), None, *when),
            ]
        return spans

    def plain_turn(self, number: int, content: Sequence[str | Grid], patch_s: float | None = 1.0) -> list[Span]:
        """A user turn of ordinary chat, up to where the answer begins: no label, and the content in any order.

        Args:
            content: texts, and the grids of videos and images. (An image is a video of one patch: its two frames are
                alike, and a model has the same embeddings and positions of either.)
            patch_s: seconds from one patch of a video to the next; None: it is an image, which has no time stamp.
        """
        spans = [Span(Part.HEAD, self._ids("<|im_start|>user\n"), round=number)]
        for piece in content:
            if isinstance(piece, str):
                self._refuse_markup(piece)
                spans.append(Span(Part.QUERY, self._ids(piece), round=number))
                continue
            spans += self._video(piece, (number, 0.0, 0.0), 0.0, patch_s)
        ends = {Part.TAIL: "<|im_end|>\n", Part.HEADER: "<|im_start|>assistant\n"}
        return spans + [Span(part, self._ids(text), round=number) for part, text in ends.items()]

    def plain_answer(self, text: str) -> tuple[int, ...]:
        """Ids of an answer of ordinary chat, with <|im_end|>: nothing more is to come."""
        self._refuse_markup(text)
        return self._ids(text.strip()) + (self.im_end,)

    def close(self, number: int, start_s: float = 0.0, end_s: float = 0.0, chat: bool = False) -> Span:
        """What stands between the answer of turn `number`, about these seconds, and the next turn, also of chat."""
        return Span(Part.CLOSE, self._ids("\n" if chat else self.texts.close), None, number, start_s, end_s)

    @property
    def ellipsis(self) -> tuple[int, ...]:
        """What ends every answer, before the token that does; silence by itself. None in systems that think."""
        return self._ids(self.system.ends_with)

    @property
    def im_end(self) -> int:
        return self._id(IM_END)

    def end(self, reply: bool = False) -> int:
        """The token that ends an answer; `reply`: to a question."""
        return self._id(self.texts.reply_end if reply else self.texts.note_end)

    @property
    def ends(self) -> set[int]:
        """All tokens that end an answer, of either kind."""
        return {self.end(), self.end(reply=True)}

    def _words(self, text: str) -> tuple[int, ...]:
        """Ids of an answer's words."""
        self._refuse_markup(text)
        text = text.strip()
        return self._ids(f" {text}" if text and self.system.spaced else text)

    def _ids(self, text: str) -> tuple[int, ...]:
        return _encode(self.tokenizer, text)

    def _id(self, token: str) -> int:
        return self._special[token]

    @cached_property
    def _special(self) -> dict[str, int]:
        """Ids of the tokens that are chat markup. Asking a tokenizer takes long, for it makes a dict of all it has."""
        return dict(self.tokenizer.get_added_vocab())

    def _refuse_markup(self, text: str) -> None:
        refuse_markup(self._special, text)


@lru_cache(maxsize=10_000)  # markup and labels come again and again
def _encode(tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))
