"""What a policy of KEEP is, and what it is asked. The table is in policies/keep.py."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from swwatch.errors import UserError
from swwatch.policies.memory.pieces import TOLERANCE_S, Piece, ends, shorten, slide, whole
from swwatch.policies.table import Policy
from swwatch.rules.spans import Part, Span
from swwatch.rules.variants import Speaks, Variant, get, speaking

if TYPE_CHECKING:  # a table costs no import of torch
    import torch

    from swwatch.policies.see.policy import See

SEEN = (Part.VISION, Part.VIDEO)


@dataclass(frozen=True)
class Shown:
    """A piece of video in view: a step of a narration, the video of a chat turn.

    Attributes:
        number: of the step or turn.
        start_s, end_s: the seconds of video that it is.
        perplexity: of the words said at it, where the policy `weighs`; None: none were, so far.
        feature: (W,) mean of its tokens before the LLM, where the policy `carries`; None: nothing of it is fed.
    """

    number: int
    start_s: float
    end_s: float
    perplexity: float | None = None
    feature: "torch.Tensor | None" = None


@dataclass(frozen=True)
class Keep(Policy):
    """A policy of this table.

    Attributes:
        for_whom: how variants speak that can be kept so.
        forgets: whether anything ever goes.
        moves: what is left is closed up, so that the cache must be one that can be re-indexed.
        anew: what is left is read anew, into an empty cache; every_turn: at every turn, whether anything went or not.
        weighs: it asks how surprising the words said at a piece of video were. In chat turns `shown` decides then.
        parks: it has a `recall`: video that goes is parked in host memory, `host_mb` of it at most, for a question.
        thins: it has a `thin`: of every `group_s` seconds of video each layer keeps what that says.
        writes: it has a `write`: video that goes is written into a memory on the device, of which each layer keeps
            what that says by the attention of the `newest` tokens of video; a question sees the pages of `read`.
        carries: of every patch one token is left, the mean of its features, read behind it.
        merges: it has a `memory`: patches are merged before the LLM, and read anew with the newest one. `shown` is not
            asked.
        folds: before it is asked, thoughts become previous text, one span each, and all else of their turns goes.
        windows: options that say how much is forgotten.
        bounded: what is held does not grow with the stream.
    """

    table: ClassVar[str] = "keep"
    for_whom: ClassVar[tuple[Speaks, ...]] = (Speaks.TURNS,)
    forgets: ClassVar[bool] = True
    moves: ClassVar[bool] = False
    anew: ClassVar[bool] = False
    every_turn: ClassVar[bool] = False
    weighs: ClassVar[bool] = False
    parks: ClassVar[bool] = False
    writes: ClassVar[bool] = False
    thins: ClassVar[bool] = False
    carries: ClassVar[bool] = False
    merges: ClassVar[bool] = False
    folds: ClassVar[bool] = False
    windows: ClassVar[tuple[str, ...]] = ()
    bounded: ClassVar[bool] = False

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        cls.parks, cls.thins = cls.recall is not Keep.recall, cls.thin is not Keep.thin
        cls.writes, cls.merges = cls.write is not Keep.write, cls.memory is not Keep.memory

    def check(self, variant: Variant) -> None:
        """Refuse a variant that cannot be kept so.

        Raises:
            UserError: it names those that can.
        """
        if self.forgets and goes_on_from_all(variant):
            raise UserError(f"keep {self}: {variant.name!r} goes on from all its notes, and forgets nothing: keep all")
        if variant.speaks not in self.for_whom:
            able = ", ".join(name for name in speaking(*self.for_whom) if not goes_on_from_all(get(name)))
            more = ", or a chat system, which forgets in a way of its own" if Speaks.TURNS not in self.for_whom else ""
            why = f"the variant {variant.name!r} cannot be kept so, for it speaks {variant.speaks.value}"
            raise UserError(f"keep {self}: {why}: take {able}{more}")

    def check_see(self, see: "See") -> None:
        """Raises UserError: it needs what `see` drops."""
        if self.merges and see.drops:
            raise UserError(f"keep {self} merges whole patches, and see {see} drops: take --see all")

    def attention(self, choice: str | None) -> str | None:
        """The attention by which it can be carried out: as asked for, or sdpa where nothing is and it needs a mask.

        Raises:
            UserError: what was asked for takes no mask.
        """
        if not (self.writes or self.carries):
            return choice
        if choice == "flash_attention_2":
            raise UserError(
                f"keep {self} hides some of the past from some tokens, and flash_attention_2 hides none: "
                "take --attention sdpa"
            )
        return choice or "sdpa"

    def left(
        self, context: Sequence[Span], begin: Sequence[Span], end_s: float, mute: tuple[int, ...], weights=None
    ) -> list[Piece]:
        """What is left of chat turns when one that ends at `end_s` is about to begin.

        Args:
            context: all spans, in order.
            begin: those that the stream began with.
            mute: ids at the end of an answer that are no words: " ..." and <|im_end|>.
            weights: asked for the `perplexity` of a turn's words, where the policy `weighs`.
        Returns:
            The pieces that stay, in their new order; the tokens of a piece follow one another in the old context too.
            By default all but the video that is not `shown` when the turn about to come is.
        """
        weigh = weights.perplexity if self.weighs else lambda _: None
        last = context[-1]
        shown = self.shown([*shown_of(context, weigh), Shown(last.round + 1, last.end_s, end_s)])
        return [(span, place) for span, place in whole(context) if span.part not in SEEN or span.round in shown]

    def shown(self, video: Sequence[Shown]) -> Collection[int]:
        """Numbers of the pieces of video that stay in view once the last of them is.

        Args:
            video: all that was in view, in order.
        """
        return [piece.number for piece in video]

    def said(self, steps: "torch.Tensor", shown: Collection[int]) -> "torch.Tensor | None":
        """(W',) which words of a narration stay then, rising; None: all. Headers always do.

        Args:
            steps: (W,) at which they were said, in order.
            shown: numbers of the steps that stay.
        """
        return None

    def memory(self) -> Any:
        """What merges the patches of one stream: an object with `add`, `shown`, `state` and `load_state`, see
        policies.memory.vstream.Memory."""
        raise NotImplementedError

    def thin(self, keys: "torch.Tensor") -> "torch.Tensor":
        """Which tokens of a group of video stay, in each layer its own: (layers, K'), rising, of any K' up to K. Asked
        of policies that define it.

        Args:
            keys: (layers, K, heads x D) of its tokens.
        """
        raise NotImplementedError

    def write(self, scores: "torch.Tensor", orders: "torch.Tensor") -> "torch.Tensor":
        """Which tokens of the memory and of video that comes to it stay, in each layer its own: (layers, K'), of any
        K' up to K.

        Args:
            scores: (layers, K) the attention that they get.
            orders: (layers, K) their numbers among all that was watched, float64.
        """
        raise NotImplementedError

    def read(self, scores: "torch.Tensor") -> "torch.Tensor":
        """Which pages of that memory a question sees: (layers, k), rising, of any k up to P.

        Args:
            scores: (layers, P) the attention that they get of it.
        """
        raise NotImplementedError

    def recall(self, scores: "torch.Tensor") -> "torch.Tensor":
        """Which of the parked blocks come back for a question: (layers, k), rising, of any k up to P. Asked of those
        that define it.

        Args:
            scores: (layers, P) how near the question is to each; (1, P) where all layers bring back the same.
        """
        raise NotImplementedError

    def beginning(self, context: Sequence[Span]) -> list[Span]:
        """What chat turns begin with: the first and the last tokens of the previous text, where the policy has options
        for it (text_sink, text_window; None: no limit)."""
        limited = any(option.name == "text_sink" for option in self.options())
        return [span for span, _ in shorten(whole(context), self)] if limited else list(context)


class Sliding(Keep):
    """A window of `vision_s` seconds of video; of words the first `text_sink` and the last `text_window` tokens.

    Attributes:
        turns_s: seconds for which an answer stays a turn of its own, before its words join the previous text; where a
            row has no option for it, as long as its video is in view.
        text_sink, text_window: tokens of the answer or of the previous text; both None: all.
    """

    for_whom: ClassVar[tuple[Speaks, ...]] = (Speaks.PARALLEL, Speaks.TURNS)
    bounded: ClassVar[bool] = True

    def shown(self, video: Sequence[Shown]) -> list[int]:
        return newest(video, self.vision_s)

    def said(self, steps: "torch.Tensor", shown: Collection[int]) -> "torch.Tensor | None":
        return ends(steps, self.text_sink, self.text_window)

    def left(self, context: Sequence[Span], begin: Sequence[Span], end_s: float, mute: tuple[int, ...]) -> list[Piece]:
        return slide(context, end_s, self, mute)

    @property
    def turns_s(self) -> float:
        return self.vision_s


def goes_on_from_all(variant: Variant) -> bool:
    """Whether a chat system thinks in a stream of its own (`tww`), so that nothing of its cache may go."""
    return variant.speaks is Speaks.TURNS and variant.streams == 2


def shown_of(context: Sequence[Span], weigh: Callable[[int], float | None] = lambda _: None) -> list[Shown]:
    """The video of chat turns as pieces. weigh: number -> perplexity."""
    rounds = {span.round: span for span in context if span.part is Part.VIDEO and span.round >= 0}
    return [Shown(number, span.start_s, span.end_s, weigh(number)) for number, span in rounds.items()]


def newest(video: Sequence[Shown], seconds: float) -> list[int]:
    """Numbers of the steps that are within so many seconds of the end of the last, which is one, however long."""
    since = min(video[-1].end_s - seconds - TOLERANCE_S, video[-1].start_s)
    return [piece.number for piece in video if piece.start_s >= since]
