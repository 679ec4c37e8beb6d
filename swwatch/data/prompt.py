"""From strings to the token ids of a sample, and back from token ids to its layout."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import yaml

from swwatch.data.prepare.pe_video_rules import is_unicode
from swwatch.errors import UserError
from swwatch.paths import CONFIGS
from swwatch.rules.cursor import layout
from swwatch.rules.layout import Kind, Layout
from swwatch.rules.patch import Patch
from swwatch.rules.schedule import Schedule, seconds_of_step, tenths

IGNORED = -100  # label of tokens without a loss
STAMP_END = " seconds><|vision_start|>"


@dataclass(frozen=True)
class Prompts:
    """The strings of configs/prompts.yaml."""

    system: str
    train_questions: tuple[str, ...]
    eval_question: str


@cache
def load_prompts(path: Path = CONFIGS / "prompts.yaml") -> Prompts:
    """Read the prompt strings.

    Raises:
        UserError: the file is missing or has other keys.
    """
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        return Prompts(raw["system"], tuple(raw["train_questions"]), raw["eval_question"])
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"{path}: need the keys system, train_questions and eval_question ({error!r})") from error


def question_of(record: dict, otherwise: str) -> str:
    """What the user asks about the video of a record: its own `question` (video QA), else `otherwise`.

    The one place of this rule, for training (where `otherwise` is drawn from the training questions) and evaluation.
    """
    return record.get("question") or otherwise


@dataclass(frozen=True)
class Markup:
    """Token ids of the chat form around prompt, video and answer, from the tokenizer and never from constants."""

    video: int  # <|video_pad|>, one per merged video token
    vision_start: int  # the last token of the prompt, or before every patch, where patches have a time stamp
    im_end: int
    suffix: tuple[int, ...]  # <|vision_end|><|im_end|>\n, without the first of them behind patches with a time stamp
    header: tuple[int, ...]  # <|im_start|>assistant\n
    stamp: tuple[tuple[int, ...], ...] = ()  # "<", each digit, ".", " seconds><|vision_start|>"; none: no time stamps
    closing: tuple[int, ...] = ()  # <|vision_end|>, which then stands behind every patch
    step_s: float = seconds_of_step()  # of which time stamps tell
    note: tuple[int, ...] = ()  # <|im_start|>thought\n, which begins what is thought and not said

    @classmethod
    def of(cls, tokenizer, stamps: bool = False, step_s: float = seconds_of_step()) -> "Markup":
        """Read the ids from a tokenizer of Qwen's.

        Args:
            stamps: of the family, see rules.families; step_s: seconds of a step.
        Raises:
            UserError: a special token is missing, or a time stamp has not one token for each of its digits.
        """
        names = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>")
        vocabulary = tokenizer.get_vocab()
        missing = [name for name in names if name not in vocabulary]
        if missing:
            raise UserError(f"the tokenizer lacks {', '.join(missing)}: is this a checkpoint of Qwen2-VL or later?")
        header, note = (tuple(_encode(tokenizer, f"<|im_start|>{who}\n")) for who in ("assistant", "thought"))
        ids = [vocabulary[name] for name in ("<|video_pad|>", "<|vision_start|>", "<|im_end|>")]
        if not stamps:
            return cls(*ids, tuple(_encode(tokenizer, "<|vision_end|><|im_end|>\n")), header, step_s=step_s, note=note)
        stamp = tuple(tuple(_encode(tokenizer, part)) for part in ("<", *"0123456789", ".", STAMP_END))
        closing = tuple(_encode(tokenizer, "<|vision_end|>"))
        markup = cls(*ids, tuple(_encode(tokenizer, "<|im_end|>\n")), header, stamp, closing, step_s, note)
        whole = _encode(tokenizer, f"<{markup.stamp_of(1234567890)}{STAMP_END}")
        if list(markup.before(1234567890)) != whole:
            raise UserError("the tokenizer joins the digits of a time stamp: is this a Qwen3-VL checkpoint?")
        return markup

    @classmethod
    def read(cls, saved: dict) -> "Markup":
        """Inverse of dataclasses.asdict, also of one that went through JSON."""
        return cls(**{name: _as_tuple(value) for name, value in saved.items()})

    def before(self, step: int) -> tuple[int, ...]:
        """Ids that announce the patch of a step: its time stamp and <|vision_start|>, or none."""
        if not self.stamp:
            return ()
        opening, *digits, point, end = self.stamp
        pieces = [point if sign == "." else digits[int(sign)] for sign in self.stamp_of(step)]
        return tuple(token for piece in (opening, *pieces, end) for token in piece)

    def stamp_of(self, step: int) -> str:
        """Seconds in the time stamp of a step, as Qwen3-VL's processor writes them: the middle of its two frames."""
        return tenths((step + 0.25) * self.step_s)

    def around(self, steps: Iterable[int]) -> list[int]:
        """All ids around the patches of steps, in order."""
        return [token for step in steps for token in (*self.before(step), *self.closing)]

    def announced(self, patches: Iterable[Patch], first: int = 0) -> list[Patch]:
        """Patches that come one after the other, the first at step `first`, with what is around each."""
        return [
            patch._replace(before=len(self.before(step)), after=len(self.closing)) if patch.num_arrived else patch
            for step, patch in enumerate(patches, first)
        ]


def _as_tuple(value):
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value


def _encode(tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def refuse_markup(special: Iterable[str], text: str) -> None:
    """Raises: UserError: a text that holds one of these tokens, or half a character, which no tokenizer takes."""
    if not is_unicode(text):
        raise UserError(f"the text {text!r} holds half a character or bytes that are no UTF-8: mend or remove them")
    inside = [token for token in special if token in text]
    if inside:
        raise UserError(f"the text {text!r} must not contain {inside[0]}: remove it")


def _refuse_markup(tokenizer, text: str) -> None:
    refuse_markup(tokenizer.get_added_vocab(), text)


def prompt_ids(
    tokenizer, system: str, question: str, markup: Markup, before: Sequence[tuple[str, str]] = ()
) -> list[int]:
    """Ids of system turn and user turn up to where the video begins, which is behind the question: <|vision_start|> is
    the last of them, but not where each patch has its own behind a time stamp.

    Args:
        before: (role, words) of turns between the system's and this one, in which the video stands whatever they say.
    Raises:
        UserError: a string holds chat markup such as <|im_end|>, which would break the turns apart.
    """
    for text in (system, question, *(part for turn in before for part in turn)):
        _refuse_markup(tokenizer, text)
    said = "".join(f"<|im_start|>{role}\n{words}<|im_end|>\n" for role, words in (("system", system), *before))
    return _encode(tokenizer, said + _user_turn(question, markup))


def _user_turn(question: str, markup: Markup) -> str:
    """Up to where the video begins."""
    return f"<|im_start|>user\n{question}" + ("" if markup.stamp else "<|vision_start|>")


def ask_ids(tokenizer, question: str, markup: Markup) -> list[int]:
    """Ids of another question in the middle of a stream: the video so far is closed, and a new user turn begins.

    Raises:
        UserError: the question holds chat markup.
    """
    _refuse_markup(tokenizer, question)
    return [*markup.suffix, *_encode(tokenizer, _user_turn(question, markup))]


def answer_ids(tokenizer, caption: str, markup: Markup) -> list[int]:
    """Ids of the stripped caption and <|im_end|>: what is spoken, and all that the loss is taken on.

    Raises:
        UserError: the caption holds chat markup, which would teach the model to stop or to see where there is nothing.
    """
    _refuse_markup(tokenizer, caption)
    return _encode(tokenizer, caption.strip()) + [markup.im_end]


def fill(
    tokens: Layout, markup: Markup, prompt: list[int], answer: list[int], thoughts: Sequence[int] = ()
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels in a layout's order.

    Args:
        thoughts: ids of all notes, without what begins them.
    Returns:
        input_ids (L,) int64, labels (L,) int64: the ids of answer and thoughts, IGNORED elsewhere. Labels are not
        shifted: the model shifts them, and in every variant the row before such a token is the one that predicts it.
    """
    ids = torch.full((len(tokens),), markup.video)
    parts = {Kind.PROMPT: prompt, Kind.SUFFIX: markup.suffix, Kind.ANSWER: answer}
    parts[Kind.HEADER] = markup.header * (int(tokens.where(Kind.HEADER).sum()) // len(markup.header))
    if thoughts:
        parts[Kind.NOTE] = markup.note * (int(tokens.where(Kind.NOTE).sum()) // len(markup.note))
        parts[Kind.THOUGHT] = thoughts
    parts[Kind.AROUND] = markup.around(tokens.step[tokens.where(Kind.AROUND)].unique().tolist())
    for kind, values in parts.items():
        ids[tokens.where(kind)] = torch.tensor(values, dtype=torch.int64)
    return ids, torch.where(tokens.where(Kind.ANSWER) | tokens.where(Kind.THOUGHT), ids, IGNORED)


def parse(
    ids: torch.Tensor,
    patches: Sequence[Patch],
    markup: Markup,
    variant: str,
    schedule: Schedule,
    t_per_step: float,
    step_s: float,
) -> Layout:
    """The layout of one unpadded sequence: the inverse of `fill`.

    Args:
        ids: (L,) token ids in the variant's training order, answer included if there is one.
        patches: of each step, without what is around them.
    Raises:
        UserError: the sequence does not have the form that the variant, schedule and patches demand.
    """
    is_video, patches = ids == markup.video, markup.announced(patches)
    num_video = sum(patch.num_arrived - patch.num_dropped for patch in patches)
    num_around = sum(patch.num_around for patch in patches)
    begun = (ids == markup.vision_start).int()  # the first patch may have no token left
    prompt_len = int(begun.argmax()) + 1 - patches[0].before if bool(begun.any()) else 0
    answer_len = len(ids) - prompt_len - num_video - num_around - len(markup.suffix) - len(markup.header)
    if prompt_len <= 0 or bool(is_video[:prompt_len].any()):
        raise UserError(f"cannot read the sequence as {variant!r}: no <|vision_start|> before the first video token")
    if int(is_video.sum()) != num_video or answer_len < 0:
        raise UserError(
            f"cannot read the sequence as {variant!r}: {int(is_video.sum())} video tokens against {num_video} in the "
            f"grids, {len(ids)} tokens in all. Expected prompt, video, suffix, assistant header, answer."
        )
    sizes = {"suffix_len": len(markup.suffix), "header_len": len(markup.header)}
    sizes |= {"t_per_step": t_per_step, "step_s": step_s}
    tokens = layout(variant, prompt_len, patches, answer_len, schedule=schedule, **sizes)
    ids = ids.cpu()
    around = markup.around(range(len(patches)))
    for kind, want in {Kind.SUFFIX: markup.suffix, Kind.HEADER: markup.header, Kind.AROUND: around}.items():
        found = ids[tokens.where(kind)].tolist()
        if found != list(want):
            raise UserError(
                f"cannot read the sequence as {variant!r} with schedule {schedule}: {found} where the {kind} "
                f"{list(want)} should be. Was it laid out for another variant or schedule?"
            )
    if not torch.equal(is_video.cpu(), tokens.where(Kind.VIDEO)):
        raise UserError(f"cannot read the sequence as {variant!r} with schedule {schedule}: video tokens out of place")
    return tokens
