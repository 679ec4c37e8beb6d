"""Positions of spans: one rule for text and video, and the policies that systems apply it by.

The rule of both Qwen2-VL and Qwen2.5-VL: text counts on by one on all three axes; a video block that begins at s has
t = s + patch x t_step, h = s + row, w = s + column; what follows begins one past the largest position so far. Families
differ in t_step alone: see rules.families. Where patches are less than a position apart, LiveCC rounds down, as
transformers does; StreamingVLM's positions are fractions.
Source: arXiv 2409.12191 and 2502.13923; policies: arXiv 2510.09608 (StreamingVLM), 2504.16030 (LiveCC).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from swwatch.config import look_up
from swwatch.errors import UserError
from swwatch.rules.spans import SAID_PARTS, Span
from swwatch.rules.systems import System

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TurnPositions:
    """Where the tokens of a stream stand.

    Attributes:
        name: as asked for.
        why: what it is for, one line.
        flat_first, flat_later: plain counting on all axes, video included, in the first turn and in later ones.
        systems: of rules.systems, whose weights or release know it.
        compact: after tokens were evicted the rest is numbered anew from 0, without gaps.
        fractions: patches stand where their time says; else at whole positions, rounded down.
        apart: what is said counts from 0 on an axis of its own, and what is watched goes on as if nothing were said.
    """

    name: str
    why: str
    systems: tuple[str, ...]
    flat_first: bool = False
    flat_later: bool = False
    compact: bool = False
    fractions: bool = False
    apart: bool = False

    def place(
        self, spans: Sequence[Span], start: float, t_step: float, num_said: int = 0
    ) -> "tuple[torch.Tensor, float]":
        """Positions of spans that follow one another.

        Args:
            spans: of any rounds; those before the first turn count to it.
            start: position of the first token; 0, or what the call before returned.
            t_step: of the model, see rules.families.
            num_said: tokens that were said before, where these stand `apart`.
        Returns:
            (3, L) int64, or float32 where one of them is a fraction, and the position of whatever comes next of what
            is not `apart`.
        """
        import torch  # here, so that the names of policies cost nothing to list

        parts = []
        for span in spans:
            if self.apart and span.part in SAID_PARTS:
                parts.append((num_said + torch.arange(len(span))).expand(3, -1))
                num_said += len(span)
                continue
            flat = self.flat_first if span.round < 1 else self.flat_later
            if span.grid is None or flat:
                part = (start + torch.arange(len(span))).expand(3, -1)
            else:
                t, h, w = torch.meshgrid(*map(torch.arange, span.grid), indexing="ij")
                t = t * t_step if self.fractions else (t.double() * t_step).long()
                part = torch.stack([start + t, start + h, start + w]).flatten(1)
            if len(span):
                start = part.max().item() + 1
            parts.append(part)
        return torch.cat([torch.zeros((3, 0), dtype=torch.int64), *parts], dim=1), start


BOTH = ("streamingvlm", "livecc")
POLICIES = {
    policy.name: policy
    for policy in (
        TurnPositions(
            "mrope_contiguous", "StreamingVLM: positions never exceed what is kept", ("streamingvlm",), compact=True
        ),
        TurnPositions(
            "mrope_append", "the contrast to it: positions grow with the stream, for ever", ("streamingvlm",)
        ),
        TurnPositions(
            "mrope_full",
            "what one forward over the whole conversation has; equal to it at every turn",
            (*BOTH, "vst"),
        ),
        TurnPositions(
            "group", "Think-While-Watching: as the variant group, words from 0 on their own axis", ("tww",), apart=True
        ),
        TurnPositions(
            "livecc_compat",
            "LiveCC's released demo: 3-D in its first turn, plain counting later",
            ("livecc",),
            flat_later=True,
        ),
        TurnPositions(
            "flat_1d", "what LiveCC's released weights were trained with", BOTH, flat_first=True, flat_later=True
        ),
        TurnPositions(
            "flat_contiguous",
            "the same over what is kept, so that windows bound it: StreamingVLM's release over LiveCC's weights",
            BOTH,
            flat_first=True,
            flat_later=True,
            compact=True,
        ),
    )
}


def get(name: str) -> TurnPositions:
    """The policy of this name.

    Raises:
        UserError: no such policy.
    """
    return look_up(POLICIES, name, "position policy")


def of(system: System, name: str | None = None) -> TurnPositions:
    """A system's policy: the one of this name, by default its own, with fractions where the system has them.

    Raises:
        UserError: no such policy, or it does not belong to the system.
    """
    policy = get(name or system.positions)
    if system.name not in policy.systems:
        own = [known.name for known in POLICIES.values() if system.name in known.systems]
        raise UserError(f"the position policy {name!r} is none of {system.name}'s: choose one of {', '.join(own)}")
    return replace(policy, fractions=system.fractions)
