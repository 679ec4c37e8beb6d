"""From strings to the spans of a conversation in turns: the one form that training and streaming share.

Every piece is tokenised by itself, so that the ids of a turn are the same whether its words are read from a
transcript or spoken by the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from swwatch.data.prompt import refuse_markup
from swwatch.errors import UserError
from swwatch.rules.schedule import tenths
from swwatch.rules.spans import Part, Span
from swwatch.rules.systems import ELLIPSIS, LABEL, System

SYSTEM_TEXT = "You are a helpful assistant."
Grid = tuple[int, int, int]  # of a video: patches, rows and columns after the merge
ROLES = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>")


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

    def begin(self, previous: str | tuple[int, ...] = "", system_text: str = SYSTEM_TEXT) -> list[Span]:
        """What precedes all turns: the system turn and, in systems that have one, the block of previous text.

        Args:
            previous: words said before, as text, which is taken as it is, or as token ids.
        """
        self._refuse_markup(system_text)
        spans = [Span(Part.SYSTEM, self._ids(f"<|im_start|>system\n{system_text}<|im_end|>\n"))]
        if not self.system.previous_text:
            if previous:
                raise UserError(f"{self.system.name} keeps no previous text: put it into the query")
            return spans
        if isinstance(previous, str):
            self._refuse_markup(previous)
            previous = self._ids(previous)
        head, end = self._ids("<|im_start|>previous text\n"), self._ids("<|im_end|>\n")
        return [*spans, Span(Part.AROUND, head), Span(Part.PREVIOUS, tuple(previous)), Span(Part.AROUND, end)]

    def turn(
        self, number: int, start_s: float, end_s: float, grid: tuple[int, int, int] | None, query: str | None = None
    ) -> list[Span]:
        """A user turn, up to where the answer begins.

        Args:
            number: of the turn, from 0.
            start_s, end_s: the seconds of its label.
            grid: of its video, (patches, rows, columns) after the merge; None for a turn of text alone.
            query: asked in this turn, behind the video; "" asks nothing.
        """
        self._refuse_markup(query or "")

        def span(part: Part, text: str) -> Span:
            return Span(part, self._ids(text), None, number, start_s, end_s)

        spans = [span(Part.HEAD, "<|im_start|>user\n")]
        if grid is not None:
            spans.append(span(Part.LABEL, LABEL.format(tenths(start_s), tenths(end_s))))
            spans += self._video(grid, (number, start_s, end_s), start_s, (end_s - start_s) / grid[0])
        if query:
            spans.append(span(Part.QUERY, query))
        return [*spans, span(Part.TAIL, "<|im_end|>\n"), span(Part.HEADER, "<|im_start|>assistant\n")]

    def answer(self, words: str) -> tuple[int, ...]:
        """Ids of a turn's words, which may be none, with " ..." and <|im_end|>: what is learned, and spoken."""
        return self._words(words) + self.ellipsis + (self.im_end,)

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

    def close(self, number: int, start_s: float = 0.0, end_s: float = 0.0) -> Span:
        """What stands between the answer of turn `number`, about these seconds, and the next turn."""
        return Span(Part.CLOSE, self._ids("\n"), None, number, start_s, end_s)

    @property
    def ellipsis(self) -> tuple[int, ...]:
        return self._ids(ELLIPSIS)

    @property
    def im_end(self) -> int:
        return self._id("<|im_end|>")

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
