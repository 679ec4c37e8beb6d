"""The tokens of a sample as columns: what each is, when it arrives, where it stands, what it may see."""

from dataclasses import dataclass, fields, replace
from enum import StrEnum

import torch

from swwatch.rules.patch import Patch
from swwatch.rules.visibility import CARRIER, PATCH, SAID, THOUGHT, can_see, can_see_carried


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
        stream: (L,) int64, visibility.WATCHED, SAID or THOUGHT; with a mark where patches have carriers.
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
        more = keys.stream[keys.stream >= THOUGHT]
        rule = can_see_carried if bool((more > THOUGHT).any()) else can_see
        return rule(*query_columns, *key_columns[: 4 if len(more) else 3])

    def carried(self, patch: torch.Tensor | None = None) -> "Layout":
        """A whole sample with a carrier behind each of its patches, which stands where the last token of it does.

        Args:
            patch: see `with_carriers`; None: each step has one.
        """
        video = self.where(Kind.VIDEO)
        index, carrier = with_carriers(video, self.step if patch is None else patch)
        marks = torch.where(carrier, CARRIER, torch.where(video[index], PATCH, 0))
        return replace(self[index], stream=self.stream[index] + marks)

    @property
    def is_causal(self) -> bool:
        """True where one stream holds all tokens, so that plain causal attention is the variant's mask."""
        return not bool(self.stream.any())


def with_carriers(video: torch.Tensor, patch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where carriers stand in a row of tokens, behind the last token of each patch.

    Args:
        video: (L,) bool, true at the tokens of patches.
        patch: (L,) which patch they are of, any numbers that differ between neighbours.
    Returns:
        (L',) which token each of the new row is, or is a carrier of, and (L',) bool, true at carriers.
    """
    ends = torch.ones_like(video)
    ends[:-1] = ~video[1:] | (patch[1:] != patch[:-1])
    index = torch.arange(len(video), device=video.device).repeat_interleave(1 + (video & ends).long())
    carrier = torch.zeros_like(index, dtype=torch.bool)
    carrier[1:] = index[1:] == index[:-1]
    return index, carrier
