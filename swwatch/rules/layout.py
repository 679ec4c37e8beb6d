"""The tokens of a sample as columns: what each is, when it arrives, where it stands, what it may see."""

from dataclasses import dataclass, fields, replace
from enum import StrEnum

import torch

from swwatch.rules.patch import Patch
from swwatch.rules.visibility import SAID, THOUGHT, can_see


class Kind(StrEnum):
    PROMPT = "prompt"  # system turn and user turn up to <|vision_start|>
    VIDEO = "video"
    SUFFIX = "suffix"  # <|vision_end|><|im_end|>\n
    HEADER = "header"  # <|im_start|>assistant\n
    ANSWER = "answer"  # the spoken tokens, <|im_end|> included
    AROUND = "around"  # text that announces a patch or closes it, in families whose steps have such
    NOTE = "note"  # <|im_start|>thought\n, which begins a note
    THOUGHT = "thought"  # the tokens of notes, <|im_end|> included


KINDS = list(Kind)
TEXT = {Kind.HEADER: SAID, Kind.ANSWER: SAID, Kind.NOTE: THOUGHT, Kind.THOUGHT: THOUGHT}  # all others are watched


@dataclass(frozen=True)
class Layout:
    """Columns of L tokens. The same class holds a whole sample, one arriving run, and the content of a KV cache.

    Attributes:
        kind_ids: (L,) int64, index into KINDS.
        step: (L,) int64, 0-based video step: of its patch for video and what is around it; of the emission for answer
            tokens and thoughts.
        stream: (L,) int64, visibility.WATCHED, SAID or THOUGHT.
        order: (L,) int64, index within the stream in order of arrival.
        sees: (L,) int64, newest video step the token may attend to (said and thought tokens of parallel variants).
        position_ids: (3, L) int64, M-RoPE axes t, h, w; float32 where a system's positions are fractions.
    """

    kind_ids: torch.Tensor
    step: torch.Tensor
    stream: torch.Tensor
    order: torch.Tensor
    sees: torch.Tensor
    position_ids: torch.Tensor

    def __len__(self) -> int:
        return self.step.shape[0]

    def __getitem__(self, index) -> "Layout":
        """The tokens chosen by a slice, an index tensor or a boolean mask, as a Layout."""
        return Layout(*(getattr(self, f.name)[..., index] for f in fields(self)))

    @staticmethod
    def cat(parts: list["Layout"]) -> "Layout":
        return Layout(*(torch.cat([getattr(p, f.name) for p in parts], dim=-1) for f in fields(Layout)))

    def strike(self, patch: Patch) -> "Layout":
        """A run of one stream in which a whole patch stands, without the cells that it lost. The order closes up."""
        if patch.kept is None:
            return self
        video = self.where(Kind.VIDEO)
        stays = ~video
        stays[video.nonzero()[list(patch.kept), 0]] = True
        left = self[stays]
        return replace(left, order=self.order[0] + torch.arange(len(left)))

    @property
    def kind(self) -> list[Kind]:
        return [KINDS[i] for i in self.kind_ids.tolist()]

    def where(self, kind: Kind) -> torch.Tensor:
        """(L,) bool, true at tokens of this kind."""
        return self.kind_ids == KINDS.index(kind)

    def visible(self, keys: "Layout | None" = None) -> torch.Tensor:
        """(L, K) bool: may row's token attend to column's token? Columns are `keys`, by default this layout."""
        keys = self if keys is None else keys
        query_columns = (column[:, None] for column in (self.stream, self.order, self.sees))
        key_columns = [column[None] for column in (keys.stream, keys.order, keys.step, keys.sees)]
        return can_see(*query_columns, *key_columns[: 4 if bool((keys.stream == THOUGHT).any()) else 3])

    @property
    def is_causal(self) -> bool:
        """True where one stream holds all tokens, so that plain causal attention is the variant's mask."""
        return not bool(self.stream.any())
