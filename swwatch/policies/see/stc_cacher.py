"""STC-Cacher: a patch that resembles the last reference is not computed anew, but for what changed most.

Every interval-th patch is a reference: each block of the tower computes all of it and holds its keys, its values, and
what its attention and its feed-forward layer added. Of the patches between two references a block computes all keys.
The `update` share of the patches' places whose key is least like the held one (cosine, all heads together) is computed
through: query, value, attention over all new keys and the held values with their own in place, feed-forward layer. The
rest takes what is held. What a patch between two references made is not held.
Source: arXiv 2512.00891 and the constants of its code, whose interval is 2, and 4 in its README. It is for towers in
which all of one frame attends to all of it. Chosen here: a frame is a patch, which is two frames; a picture of another
size is a reference; the share is rounded, and at least one place is computed.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from swwatch.policies.see.policy import See, TowerBlock
from swwatch.policies.table import option

if TYPE_CHECKING:  # a table costs no import of torch
    import torch


@dataclass(frozen=True)
class StcCacher(See):
    """Nothing is dropped. A reference every `interval` patches; `update`: the share computed anew between them."""

    name: ClassVar[str] = "stc_cacher"
    needs: ClassVar[str] = "features"
    drops: ClassVar[bool] = False
    reuses: ClassVar[bool] = True
    interval: int = option(4, least=1)
    update: float = option(0.25, least=0, most=1)

    def begin(self) -> "StcCacherState":
        return StcCacherState(self)


class StcCacherState:
    """What each block holds of the reference, and how many patches ago that was.

    A patch counts once it is through (`keep`): one that is tried again changes nothing.
    """

    def __init__(self, policy: StcCacher):
        self.policy, self.size, self.age = policy, (0, 0), 0
        self.held: list[tuple[torch.Tensor, ...]] = []  # keys, values, what attention and feed-forward layer added
        self.new: list[tuple[torch.Tensor, ...]] = []  # the same of a reference that is under way
        self.computed: list[torch.Tensor] = []
        self.is_reference = True

    def enter(self, rows: int, columns: int) -> None:
        self.new, self.computed = [], []
        is_due = self.age + 1 >= self.policy.interval
        self.is_reference = is_due or not self.held or self.size != (rows, columns)
        if self.is_reference:
            self.held = []  # its memory is for the new one

    def run(self, block: TowerBlock, states: "torch.Tensor") -> "torch.Tensor":
        normed = block.norm(states)
        keys = block.keys(normed)
        if self.is_reference:
            values = block.values(normed)
            attended = block.attend(block.queries(normed), keys, values)
            states = states + attended
            added = block.feed_forward(states)
            self.new.append((keys, values, attended, added))
            return states + added
        before, values, attended, added = self.held[block.number]
        places = self.least_alike(keys, before)
        self.computed.append(places)
        values = values.index_copy(0, places, block.values(normed[places]))
        fresh = block.attend(block.queries(normed[places], places), keys, values)
        states = states + attended.index_copy(0, places, fresh)
        return states + added.index_copy(0, places, block.feed_forward(states[places]))

    def least_alike(self, keys: "torch.Tensor", before: "torch.Tensor") -> "torch.Tensor":
        """Where keys (S, N, D/N) differ most from those held: (n,) places."""
        from torch.nn.functional import cosine_similarity  # here, so that a table costs no import of torch

        likeness = cosine_similarity(keys.flatten(1).float(), before.flatten(1).float(), dim=1)
        return likeness.argsort(stable=True)[: max(1, round(self.policy.update * len(keys)))]

    def keep(self, tokens: "torch.Tensor", rows: int, columns: int) -> None:
        self.age = 0 if self.new else self.age + 1
        self.held, self.new, self.size = self.new or self.held, [], (rows, columns)
