"""Which choice a model takes: one forward, and the highest logit among the choices' own tokens; or what it replies.

Prompt: the system turn, one user turn (video, question), the assistant's header and the beginning of its answer. A
choice is known by the token that it begins with behind this beginning: the letter with the space before it after
"Answer:", without one after a line end. Where a tokenizer has no such token, what all choices begin with (the space)
is read as part of the beginning. A reply is the likeliest tokens behind the assistant's header, to an end or a limit.
"""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from swwatch.data.budget import PixelBudget
from swwatch.data.pixels import FrameEncoder, merged_grids
from swwatch.data.video import FRAMES_PER_STEP
from swwatch.engine.base import stop_ids
from swwatch.errors import UserError
from swwatch.evaluate.quiz.frames import ShownFrames, read_shown
from swwatch.evaluate.quiz.items import Item
from swwatch.evaluate.quiz.rounds import ask_all
from swwatch.evaluate.quiz.tasks import Form
from swwatch.model.loading import Loaded
from swwatch.rules import turn_positions as positions
from swwatch.rules.chosen import chosen
from swwatch.rules.cursor import layout_of
from swwatch.rules.families import t_step
from swwatch.rules.schedule import seconds_of_step
from swwatch.rules.spans import Part, Span, ids_of
from swwatch.rules.systems import SYSTEMS

PATCHES_AT_ONCE = 32  # through the vision tower: patches of different seconds do not see each other there
PLAIN = SYSTEMS["livecc"]  # its form has nothing but system, user and assistant turns


@dataclass(frozen=True)
class Answered:
    """What was chosen, or replied.

    Attributes:
        said: one of the choices, or the reply.
        logits: choice -> logit of its token; {} of a reply.
        tokens: choice -> that token; of a reply piece of text -> token.
        num_frames: that were shown; seconds: of the file, from the first to the end of the last.
        num_tokens: in view when the answer began.
        took_s: from the question to the answer; of a stream without what was watched before.
        more: for the row, of a question that is asked several times; see rounds.
    """

    said: str
    logits: dict[str, float]
    tokens: dict[str, int]
    num_frames: int
    seconds: tuple[float, float]
    num_tokens: int = 0
    took_s: float | None = field(default=None, compare=False)
    more: dict = field(default_factory=dict)


@dataclass
class _View:
    """What a model has read, up to where its answer goes on."""

    cache: object
    num_tokens: int
    position: float
    logits: torch.Tensor


def choice_tokens(tokenizer, form: Form, choices: Sequence[str]) -> tuple[tuple[int, ...], dict[str, int]]:
    """Ids that the answer begins with, and the token of each choice behind them.

    Raises:
        UserError: the tokenizer cannot tell the choices apart by their first token.
    """

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    context = encode(form.context.rstrip(" "))
    behind = {}
    for choice in choices:
        ids = encode(form.context + choice)
        if ids[: len(context)] != context:
            raise UserError(f"the tokenizer joins {form.context!r} and {choice!r}: these choices cannot be told apart")
        behind[choice] = ids[len(context) :]
    shared = os.path.commonprefix(list(behind.values()))
    firsts = {choice: ids[len(shared)] for choice, ids in behind.items() if len(ids) > len(shared)}
    if len(set(firsts.values())) < len(choices):
        raise UserError(f"the tokenizer has no token of its own for each of {', '.join(choices)}")
    return (*encode(form.beginning), *shared), firsts


class Plain:
    """Asks a model about whole clips, whatever it was trained to be: the video in one turn, no state.

    Args:
        policy: of rules.turn_positions.
        form: how it is asked.
        max_frames: by default the form's.
        nframes: so many frames evenly spread, at no fixed rate; None: frames on the model's grid.
    """

    streams = False

    def __init__(
        self,
        loaded: Loaded,
        form: Form,
        budget: PixelBudget,
        policy: str = "mrope_full",
        max_frames: int | None = None,
        nframes: int | None = None,
    ):
        self.loaded, self.form = loaded, form
        self.policy, self.max_frames = positions.get(policy), max_frames or form.max_frames
        self.nframes, self.fps = nframes, loaded.settings.fps
        self.turns = loaded.turns(PLAIN)
        self.encoder = FrameEncoder(loaded.processor.video_processor, budget)

    def describe(self) -> dict:
        """What answers depend on; `how` is for people."""
        how = f"whole clips ({self.policy.name})"
        facts = {"how": how, "positions": self.policy.name, "max_frames": self.max_frames}
        return facts if self.nframes is None else facts | {"nframes": self.nframes, "max_frames": None}

    def units(self, items: Sequence[Item]) -> list[list[Item]]:
        """Questions that are worked on together."""
        return [[item] for item in items]

    def answers(self, items: Sequence[Item], path: Path) -> Iterator[tuple[Item, Answered | UserError]]:
        """Answers to a unit's questions; an error in the place of an answer concerns this question alone.

        Raises:
            UserError: the video cannot be used.
        """
        for item in items:
            yield item, ask_all(item, lambda one: self.answer(one, path), seconds_of_step(self.fps), self.form)

    def answer(self, item: Item, path: Path) -> Answered:
        """Raises: UserError: the video cannot be used."""
        shown = read_shown(item, path, self.max_frames, fps=self.fps, nframes=self.nframes, shrink=self._small)
        seconds = float(shown.times_s[0]), float(shown.times_s[-1]) + 1 / self.fps
        began = time.perf_counter()
        if self.form.reply:
            answered = Answered(*self.reply(item, shown), len(shown.frames), seconds)
        else:
            answered = choose(*self.logits(item, shown), len(shown.frames), seconds)
        return replace(answered, num_tokens=self.num_tokens, took_s=time.perf_counter() - began)

    def logits(self, item: Item, shown: ShownFrames) -> tuple[torch.Tensor, dict[str, int]]:
        """(V,) logits of the answer, and the tokens of the choices."""
        beginning, tokens = choice_tokens(self.loaded.tokenizer, self.form, item.choices)
        return self._read(item, shown, beginning).logits, tokens

    def reply(self, item: Item, shown: ShownFrames) -> tuple[str, dict[str, float], dict[str, int]]:
        """The text of the likeliest tokens, no logits, and the tokens."""
        view, model, said = self._read(item, shown), self.loaded.model, []
        stops, step = stop_ids(model), t_step(model.config, shown.seconds_per_patch)
        while (token := int(view.logits.argmax())) not in stops:
            said.append(token)
            if len(said) == self.form.reply:
                break
            span = Span(Part.ANSWER, (token,), None, 0)
            where, view.position = self.policy.place([span], view.position, step)
            rows = layout_of([span], where, view.num_tokens + len(said) - 1)
            view.logits = model.step(view.cache, rows, model.embed([token]).to(model.dtype))
        return reply_of(self.loaded.tokenizer, said)

    def _read(self, item: Item, shown: ShownFrames, beginning: tuple[int, ...] = ()) -> _View:
        """A clip and a question, up to where the answer goes on behind its beginning."""
        model = self.loaded.model
        video, grid = self._look(shown)
        spans = [*self.turns.begin(), *self.turns.plain_turn(0, [grid, item.prompt], shown.seconds_per_patch)]
        spans.append(Span(Part.ANSWER, beginning, None, 0))
        where, position = self.policy.place(spans, 0, t_step(model.config, shown.seconds_per_patch))
        with torch.no_grad():
            embeds = model.embed(ids_of(spans)).to(model.dtype)
        is_video = torch.cat([torch.full((len(span),), span.part is Part.VIDEO) for span in spans])
        embeds.index_copy_(0, chosen(is_video, embeds.device), video.to(embeds))
        cache, self.num_tokens = model.new_cache(), len(is_video)
        return _View(cache, len(is_video), position, model.step(cache, layout_of(spans, where), embeds))

    def _small(self, frame: np.ndarray, num_frames: int) -> np.ndarray:
        """A frame in the size that `encode` would give it, which then leaves it as it is."""
        return self.encoder.resize(frame[None], num_frames)[0].permute(1, 2, 0).numpy()

    def _look(self, shown: ShownFrames) -> tuple[torch.Tensor, tuple[int, int, int]]:
        """Embeddings of a clip, and its grid after the merge."""
        seen, size, count = [], (0, 0), PATCHES_AT_ONCE * FRAMES_PER_STEP
        for first in range(0, len(shown.frames), count):
            pixels, grid = self.encoder.encode(shown.frames[first : first + count], len(shown.frames))
            size = merged_grids(grid, self.encoder.merge_size)[0]
            seen.append(self.loaded.model.watch_video(pixels, grid))
        return torch.cat(seen), (shown.num_patches, *size)


def choose(logits: torch.Tensor, tokens: dict[str, int], num_frames: int, seconds: tuple[float, float]) -> Answered:
    """The choice with the highest logit; of equal ones the first."""
    values = {choice: float(logits[token]) for choice, token in tokens.items()}
    return Answered(max(values, key=values.get), values, tokens, num_frames, seconds)


def reply_of(tokenizer, ids: Sequence[int]) -> tuple[str, dict[str, float], dict[str, int]]:
    """A reply as Answered has it: text, no logits, and its tokens with their number in front, so that none is lost."""
    pieces = {f"{number} {tokenizer.decode([token])}": token for number, token in enumerate(ids)}
    return tokenizer.decode(ids, skip_special_tokens=True).strip(), {}, pieces
