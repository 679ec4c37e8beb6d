"""A model without weights and a tokenizer of made-up words: sessions run as they are, where only the course counts."""

import re
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import torch

from swwatch.data.prompt import Markup
from swwatch.model.cache import StreamCache
from swwatch.model.settings import Settings
from swwatch.policies.chooser import Chooser
from swwatch.policies.speak import WaitK
from swwatch.rules.layout import Layout
from swwatch.rules.schedule import Schedule

# made-up token ids; with random weights only their being different counts
MARKUP = Markup(video=10, vision_start=11, im_end=12, suffix=(13, 12, 14), header=(15, 16, 14), note=(15, 19, 14))
WORD = 50  # what a blank model says, again and again


class DummyTokenizer:
    """A tokenizer of its own: words, digits and marks become ids in the order they are met."""

    FIRST = 20
    ROLES = {"<|im_start|>": 15, "<|im_end|>": 12, "<|vision_start|>": 11, "<|vision_end|>": 13, "<|video_pad|>": 10}
    ROLES |= {"<EOQ>": 17, "<EOT>": 18}

    def __init__(self):
        self._ids = self.ROLES | {"\n": 14, "assistant": 16}

    def get_added_vocab(self) -> dict[str, int]:
        return dict(self.ROLES)

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        pieces = re.findall(r"<\|\w+\|>|<EO[QT]>| ?[^\W\d]+| ?\.\.\.|\d|.|\n", text)
        return [self._ids.setdefault(piece, self.FIRST + len(self._ids)) for piece in pieces]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        names = {number: piece for piece, number in self._ids.items()}
        return "".join(names[i] for i in ids if not (skip_special_tokens and names[i] in self.ROLES))


class ScriptedChooser(Chooser):
    """Chooses as a session's own chooser does, and then says what it is told: so many tokens a turn.

    Args:
        count: tokens of a turn; end: the last of them.
        words: ids of the others.
    """

    def __init__(self, chooser: Chooser, count: int, end: tuple[int, ...], words: Iterator[int]):
        vars(self).update(vars(chooser))
        self._count, self._end, self._words = count, end, words

    def pick(self, logits: torch.Tensor, may_stop: bool) -> int:
        super().pick(logits, may_stop)
        left = self._count - self.num_chosen
        return self._end[len(self._end) - 1 - left] if left < len(self._end) else next(self._words)


class DummyModel:
    """Stands for a Watching: keeps a cache as one does, and has nothing to say but WORD.

    Args:
        variant: as in a checkpoint's settings.
        t_per_step: temporal positions a step; 1 is Qwen2-VL's.
        vocab_size: above every id that is said.
    """

    def __init__(self, variant: str, schedule: Schedule | None = None, t_per_step: int = 2, vocab_size: int = 10_000):
        vision = SimpleNamespace(spatial_merge_size=1, tokens_per_second=t_per_step)
        text = SimpleNamespace(vocab_size=vocab_size)
        self.config = SimpleNamespace(model_type="qwen2_5_vl", vision_config=vision, text_config=text)
        self.settings = Settings(variant, schedule or WaitK(), "declared")
        self.generation_config = SimpleNamespace(eos_token_id=MARKUP.im_end)
        self.markup, self.t_per_step = MARKUP, t_per_step
        self.dtype, self.device, self.attention = torch.float32, torch.device("cpu"), "sdpa"
        self._logits = torch.zeros(vocab_size)
        self._logits[WORD] = 1.0

    def new_cache(self, endless: bool = False, moves: bool = True) -> StreamCache:
        return StreamCache(1, _no_turn if endless else None, moves)

    def embed(self, ids) -> torch.Tensor:
        return torch.zeros(len(ids), 1)

    def watch_video(self, pixel_values: torch.Tensor, grid_thw: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(pixel_values), 1)

    def step(self, cache: StreamCache, rows: Layout, embeds: torch.Tensor, predicts: int | None = -1):
        cache.admit(rows)
        nothing = torch.zeros(1, 1, len(rows), 2)
        for layer in cache.layers:
            layer.update(nothing, nothing, nothing)
        return None if predicts is None else self._logits


def _no_turn(_, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of no rotation."""
    shape = (1, position_ids.shape[-1], 2)
    return torch.ones(shape), torch.zeros(shape)
