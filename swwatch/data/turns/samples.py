"""A training sample of a conversation, as the spans that a stream would have: same prompt, same turns, same word ids.

The words of a turn are those that have ended when it ends; the last turn's end is the clip's. A question of the stream
is asked in the turn in which it ends, and not at all where that was before the clip. What a stream would have cut from
the text before it is cut here, too, by the same rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from swwatch.data.turns.conversation import Chat, Commentary
from swwatch.data.turns.prompt import SYSTEM_TEXT, Turns
from swwatch.data.turns.segments import slices_of, turns_of
from swwatch.data.turns.transcript import by_turn, text_of
from swwatch.errors import UserError
from swwatch.policies.keep import Keep, parse_keep
from swwatch.rules.schedule import FPS, seconds_of_step
from swwatch.rules.spans import Part, Span
from swwatch.rules.systems import Context

Grid = tuple[int, int, int]  # of a clip: patches, rows and columns after the merge


@dataclass(frozen=True)
class Line:
    """A turn of a commentary: what is asked and said about `num_steps` steps of video, seconds as its label counts."""

    start_s: float
    end_s: float
    num_steps: int
    query: str
    words: str


@dataclass(frozen=True)
class SampleFormat:
    """How conversations become spans.

    Attributes:
        turns: the form of the system.
        context: what else a query tells: of systems that have no block of previous text, such as LiveCC.
        max_length: tokens of a sample, at most.
        truncate: a commentary that is longer loses its last turns; else it is refused, as other chat is.
        keep: what the system keeps, of previous text here; by default its own.
        system_text: of the system turn.
        fps, seconds_per_turn: frames a second, and seconds of a turn, see System.patches_of_turns.
    Raises:
        UserError: a context that the system keeps in its own place, or turns that are no whole patches.
    """

    turns: Turns
    context: Context = "none"
    max_length: int = 32_768
    truncate: bool = False
    keep: Keep | str | None = None
    system_text: str = SYSTEM_TEXT
    fps: float = FPS
    seconds_per_turn: float | None = None

    def __post_init__(self):
        system = self.turns.system
        if system.previous_text and self.context not in ("none", "title"):
            raise UserError(f"{system.name} has previous text in a turn of its own: choose the context none or title")
        system.patches_of_turns(self.fps, self.seconds_per_turn)

    def spans(self, dialogue: Commentary | Chat, grid: Grid, start_s: float = 0.0) -> tuple[list[Span], int, bool]:
        """The spans of a sample.

        Args:
            grid: of the whole clip; start_s: where in its video it begins.
        Returns:
            Spans; how many patches of the clip they show (in chat all); and whether max_length cut any.
        Raises:
            UserError: too long, nothing is said, or a text holds chat markup.
        """
        if isinstance(dialogue, Chat):
            spans = self._chat(dialogue, grid)
            self._refuse_longer(sum(map(len, spans)))
            return spans, grid[0], False
        if self.turns.system.aside:
            spans, _ = max(self.slices(dialogue, grid, start_s), key=lambda pair: sum(map(len, pair[0])))
            return spans, grid[0], False
        begin, turns = self._begin(dialogue), self._trimmed(self._turns(dialogue, grid, start_s))
        length, cut = _length(begin, turns), False
        if length > self.max_length:
            if not self.truncate:
                self._refuse_longer(length)
            cut = True
            while turns and _length(begin, turns) > self.max_length:
                turns.pop()
            turns = self._trimmed(turns)
            if not turns:
                raise UserError(f"not even its first turn fits into max_length {self.max_length}")
        if not turns:
            raise UserError("nothing is said in the clip")
        shown = sum(span.grid[0] for turn in turns for span in turn if span.grid)
        return [*begin, *(span for turn in turns for span in turn)], shown, cut

    def slices(self, commentary: Commentary, grid: Grid, start_s: float = 0.0) -> list[tuple[list[Span], range]]:
        """The samples of a record where questions are answered aside, see segments.slices_of.

        Raises:
            UserError: nothing is said, or all are too long.
        """
        turns, keep = self._turns(commentary, grid, start_s), parse_keep(self.keep or self.turns.system.keep)
        slices = slices_of(self.turns, self._begin(commentary), turns, keep)
        if not slices:
            raise UserError("nothing is said in the clip")
        lengths = [sum(map(len, spans)) for spans, _ in slices]
        self._refuse_longer(min(lengths))
        return [pair for pair, length in zip(slices, lengths, strict=True) if length <= self.max_length]

    def bounds(self, num_steps: int) -> list[tuple[int, int]]:
        """Patches of the clip at which turns begin and end; the last turn may be short, as a stream's is."""
        first, later = self.turns.system.patches_of_turns(self.fps, self.seconds_per_turn)
        begins = [0, *range(first, num_steps, later)]
        return list(pairwise([*begins, num_steps]))

    def _begin(self, commentary: Commentary) -> list[Span]:
        previous = commentary.previous if self.turns.system.previous_text else ""
        begin = self.turns.begin(previous, self.system_text)
        return parse_keep(self.keep or self.turns.system.keep).beginning(begin)

    def script(self, commentary: Commentary, num_steps: int, start_s: float = 0.0) -> list[Line]:
        """What is asked and said in each turn.

        Args:
            num_steps: patches of the clip; start_s: where in its video it begins.
        """
        system, bounds, step_s = self.turns.system, self.bounds(num_steps), seconds_of_step(self.fps)
        ends_s = [start_s + end * step_s for _, end in bounds]
        words, _ = by_turn(commentary.words, [end_s - system.words_early / self.fps for end_s in ends_s])
        questions, late = [], [row for row in commentary.questions if row.time_s > start_s]
        for end_s in ends_s:
            questions.append([row for row in late if row.time_s <= end_s])
            late = late[len(questions[-1]) :]
        zero_s = 0.0 if system.clip_time else start_s
        lines = []
        for number, (begin, end) in enumerate(bounds):
            queries = [commentary.query_with(self.context)] if number == 0 else []
            queries += [row.question for row in questions[number]]
            answers, spoken = [row.answer for row in questions[number]], text_of(words[number])
            answers.append(f" {spoken}" if answers and spoken and system.spaced else spoken)
            asks, says = ("\n".join(filter(None, texts)) for texts in (queries, answers))
            lines.append(Line(zero_s + begin * step_s, zero_s + end * step_s, end - begin, asks, says))
        return lines

    def _turns(self, commentary: Commentary, grid: Grid, start_s: float) -> list[list[Span]]:
        """The spans of each turn, its answer included."""
        if self.turns.system.thinks:
            step_s = seconds_of_step(self.fps)
            ends_s = [start_s + end * step_s for _, end in self.bounds(grid[0])]
            return turns_of(self.turns, commentary, ends_s, grid, start_s, step_s)
        turns = []
        for number, line in enumerate(self.script(commentary, grid[0], start_s)):
            when = line.start_s, line.end_s
            turn = [self.turns.close(number - 1)] if number else []
            turn += self.turns.turn(number, *when, (line.num_steps, *grid[1:]), line.query)
            turns.append([*turn, Span(Part.ANSWER, self.turns.answer(line.words), None, number, *when)])
        return turns

    def _trimmed(self, turns: list[list[Span]]) -> list[list[Span]]:
        silence = self.turns.answer("")
        while self.turns.system.drop_silence and turns and turns[-1][-1].ids == silence:
            turns = turns[:-1]
        return turns

    def _chat(self, dialogue: Chat, grid: Grid) -> list[Span]:
        spans, step_s = (
            self.turns.begin("", self.system_text, chat=True),
            None if dialogue.still else seconds_of_step(self.fps),
        )
        for number, (content, answer) in enumerate(dialogue.turns):
            spans += [self.turns.close(number - 1, chat=True)] if number else []
            spans += self.turns.plain_turn(number, [grid if piece is None else piece for piece in content], step_s)
            spans.append(Span(Part.ANSWER, self.turns.plain_answer(answer), None, number))
        return spans

    def _refuse_longer(self, length: int) -> None:
        if length > self.max_length:
            raise UserError(f"the sample has {length} tokens, more than max_length {self.max_length}")


def _length(begin: Sequence[Span], turns: Sequence[Sequence[Span]]) -> int:
    return sum(map(len, begin)) + sum(len(span) for turn in turns for span in turn)
