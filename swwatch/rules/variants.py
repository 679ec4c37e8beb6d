"""The variants: ONE table (VARIANTS, at the end) and the position rules it names. Integers alone, no torch.

Training, streaming, pictures and tests all read that table; rules.cursor lays tokens out by it. A further variant is
one more row, with its position rule and its golden case. Source of the rules: arXiv 2601.06843, section 3; integers in
tests/golden/layouts.json.
"""

from dataclasses import dataclass
from enum import Enum

from swwatch.config import look_up
from swwatch.errors import UserError
from swwatch.rules.visibility import SAID, THOUGHT, WATCHED


class Speaks(Enum):
    OFFLINE = "after the whole video"
    ALTERNATING = "wait-k, alternating with the video in one sequence"
    PARALLEL = "wait-k, while the next video step comes in"
    TURNS = "as the answer of a chat turn, which the next step of video ends"


class VideoThenText:
    """origin: video on a fixed grid from the prompt's end, text one past the largest position so far.

    This is also the base of the other rules: the state they share and the four questions they answer differently.
    Temporal axis: `t_per_step` per patch, rounded down: tokens_per_second of the checkpoint times the seconds of a
    step, which are 1 at 2 frames a second (then 2 positions a patch; 4 at 1, 1 at 4, and at 8 two patches share one).
    Rules by which every patch begins anew (overlap, interleave) do not know it. Text after a video resumes at max over
    t, h, w, plus 1. Both are what the Qwen2.5-VL weights were trained with (transformers 4.54 to 4.57). A question in
    mid-stream is text after a video, and the video after it is another one: its grid begins at the question's end.
    Where text announces every patch (`announced_start`) each is a video of its own, whose text begins one past what
    was watched so far.

    Attributes:
        first: position of the first text token, where text has an axis of its own.
        first_thought: the same of thoughts.
    """

    first = first_thought = 0

    def __init__(self, t_per_step: float):
        self.t_per_step = t_per_step
        self.watched_end = -1  # largest position of the prompt, questions, video and suffix so far
        self.said_end = -1  # largest position of the header and answer so far
        self.thought_end = -1  # largest position of what was thought so far
        self.grid_step = self.grid_start = 0  # the first step since the newest question, and where its patch begins

    def question_start(self, step: int) -> int:
        """Position of the first token of a question asked before the patch of `step`. The prompt is the first one."""
        return self.watched_end + 1

    def begin_grid(self, step: int) -> None:
        """A question before the patch of `step` is complete."""
        self.grid_step, self.grid_start = step, self.watched_end + 1

    def renumber(self, steps: int) -> None:
        """From now on steps are counted higher by so many."""
        self.grid_step += steps

    def patch_start(self, step: int) -> tuple[int, int, int]:
        """(t, h, w) of the first token of the patch of `step`."""
        start = self.grid_start
        return start + int(self.t_per_step * (step - self.grid_step)), start, start

    def announced_start(self, step: int) -> int:
        """Position of the first token that announces the patch of `step`; the patch begins behind the last of them."""
        return self.watched_end + 1

    def suffix_start(self) -> int:
        return self.watched_end + 1

    def text_start(self, step: int) -> int:
        """Position of the next text token, which is spoken at `step`."""
        return max(self.watched_end, self.said_end) + 1

    def start_of(self, stream: int, step: int) -> int:
        """`text_start` or `thought_start`: of the stream SAID or THOUGHT."""
        return self.thought_start(step) if stream == THOUGHT else self.text_start(step)

    def reach(self, stream: int, end: int) -> None:
        """Something of a stream stands at `end`."""
        name = {WATCHED: "watched_end", SAID: "said_end", THOUGHT: "thought_end"}[stream]
        setattr(self, name, max(getattr(self, name), end))

    def thought_start(self, step: int) -> int:
        """Position of the next token of a thought, which is thought at `step`: on an axis of its own, as words are."""
        return max(self.thought_end + 1, self.first_thought)


class OwnAxis(VideoThenText):
    """batch, group (GDPE): the answer has an axis of its own, from `first`. Each axis continues only itself."""

    def text_start(self, step: int) -> int:
        return max(self.said_end + 1, self.first)


class OwnAxisAfterGap(OwnAxis):
    """gap (GIPE): as GDPE, from a constant far from all video. Thoughts begin half-way, far from both: what a token
    sees of other streams stands before it, as in text, until one is so long that it reaches the next one's constant.
    """

    first, first_thought = 10_000, 5_000


class SharedStart(VideoThenText):
    """overlap (OSPE): the text of step i and the patch of step i+1 (or the question before it) start one past E_i.

    E_i = max(end of patch i, suffix included at the last step; end of the text of step i-1). It is fixed when the
    first of the two begins, whichever an engine does first. What is thought at step i is one more text of that step.
    """

    def __init__(self, t_per_step: float):
        super().__init__(t_per_step)
        self.open_step = -1  # the step whose E is in self.end
        self.end = -1

    def _end_of(self, step: int) -> int:
        if step > self.open_step:
            self.open_step, self.end = step, max(self.watched_end, self.said_end, self.thought_end)
        return self.end

    def renumber(self, steps: int) -> None:
        super().renumber(steps)
        self.open_step += steps

    def question_start(self, step: int) -> int:
        return self.watched_end + 1 if step == self.grid_step else self._end_of(step - 1) + 1

    def patch_start(self, step: int) -> tuple[int, int, int]:
        return (self.announced_start(step),) * 3

    def announced_start(self, step: int) -> int:
        return self.grid_start if step == self.grid_step else self._end_of(step - 1) + 1

    def text_start(self, step: int) -> int:
        return max(self._end_of(step), self.said_end) + 1

    def thought_start(self, step: int) -> int:
        return max(self._end_of(step), self.thought_end) + 1


class RunningAxis(VideoThenText):
    """interleave: every patch and every text run starts one past the largest position used so far."""

    def question_start(self, step: int) -> int:
        return max(self.watched_end, self.said_end) + 1

    def patch_start(self, step: int) -> tuple[int, int, int]:
        return (self.announced_start(step),) * 3

    def announced_start(self, step: int) -> int:
        return max(self.watched_end, self.said_end) + 1

    def suffix_start(self) -> int:
        return max(self.watched_end, self.said_end) + 1


@dataclass(frozen=True)
class Variant:
    """A row of the table.

    Attributes:
        positions: the position rule.
        speaks: when text comes, which also orders the training sequence and says how many streams there are.
    """

    name: str
    paper: str
    positions: type[VideoThenText]
    speaks: Speaks

    @property
    def streams(self) -> int:
        """1 (plain causal) or 2 (watched and said apart, the parallel mask, beside which thoughts have a third)."""
        apart = self.speaks is Speaks.TURNS and self.positions is OwnAxis
        return 2 if self.speaks is Speaks.PARALLEL or apart else 1

    def check_thoughts(self) -> None:
        """Refuse thoughts where there is no stream for them.

        Raises:
            UserError: it names the variants that can think.
        """
        able = ", ".join(speaking(Speaks.PARALLEL))
        if self.speaks is Speaks.TURNS:
            raise UserError(f"{self.name!r} speaks in chat turns, where none thinks beside its words: take {able}")
        if self.streams == 1:
            raise UserError(
                f"{self.name!r} has one sequence, in which a thought would hold up what is watched and said: leave "
                f"thoughts out, or take a variant that has streams of their own: {able}"
            )


def get(name: str) -> Variant:
    """The table's row of this name.

    Raises:
        UserError: no such variant.
    """
    return look_up(VARIANTS | TURNS, name, "variant")


def speaking(*ways: Speaks) -> list[str]:
    """Names of the variants and chat systems that speak in one of these ways, in the order of their tables."""
    return [name for name, variant in (VARIANTS | TURNS).items() if variant.speaks in ways]


def is_chat(name: str) -> bool:
    """Whether this row is a system that streams in chat turns."""
    return name in TURNS


# Adding a variant: one row here, its rule above, its golden case in tests/golden. Nothing else changes.
VARIANTS = {
    v.name: v
    for v in (
        Variant("origin", "Offline, Origin", VideoThenText, Speaks.OFFLINE),
        Variant("batch", "Offline, GDPE", OwnAxis, Speaks.OFFLINE),
        Variant("interleave", "Streaming, Interleave", RunningAxis, Speaks.ALTERNATING),
        Variant("overlap", "Streaming, OSPE", SharedStart, Speaks.PARALLEL),
        Variant("group", "Streaming, GDPE", OwnAxis, Speaks.PARALLEL),
        Variant("gap", "Streaming, GIPE", OwnAxisAfterGap, Speaks.PARALLEL),
    )
}

# Systems that stream in chat turns: plain causal, one running axis; `tww` has the positions and the mask of `group`.
# rules.turn_positions lays out their conversations.
TURNS = {
    v.name: v
    for v in (
        Variant("streamingvlm", "StreamingVLM (2510.09608)", RunningAxis, Speaks.TURNS),
        Variant("livecc", "LiveCC (2504.16030)", RunningAxis, Speaks.TURNS),
        Variant("vst", "Video Streaming Thinking (2603.12262)", RunningAxis, Speaks.TURNS),
        Variant("tww", "Think-While-Watching (2603.11896)", OwnAxis, Speaks.TURNS),
    )
}
