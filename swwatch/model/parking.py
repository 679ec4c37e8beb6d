"""Host memory of a cache: blocks of video that have left the device, found again by a question, and brought back.

A block is parked as its keys were first rotated, and with where that was, so that what comes back to where it stood is
what it was, bit for bit. A question is compared with the mean key of a block, both without rotation, in each layer.
Source of the rule: ReKV, arXiv 2503.00540. Copies are plain ones: nothing is pinned, and
the host waits once for all layers of what is parked.
Legend: M layers, N key heads, G query heads for each of them, K tokens of a block, D width of a head, P blocks.
"""

from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import rotate_half

from swwatch.rules.chosen import chosen, sent
from swwatch.rules.layout import Layout
from swwatch.rules.patch import Placed
from swwatch.rules.visibility import WATCHED


def turned(keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Keys (..., K, D) rotated on by cosines and sines that broadcast to them, in float32 and back."""
    return (keys.float() * cos + rotate_half(keys.float()) * sin).to(keys.dtype)


@dataclass(frozen=True)
class Block:
    """Tokens that were parked together.

    Attributes:
        tokens: their columns, as they were then.
        placed: where the grid stood then; its step or turn is that of the tokens. patches: that it has.
        keys, values: (M, N, K, D) on the host; keys as they were first rotated, to `first_positions` (3, K).
        mean: (M, N, D) mean of the keys without rotation.
    """

    tokens: Layout
    placed: Placed
    patches: int
    first_positions: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    mean: torch.Tensor

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes + self.mean.nbytes

    @cached_property
    def form(self) -> tuple:
        """Blocks of one form may take each other's places."""
        here = self.tokens.position_ids - torch.tensor([self.placed.start]).T
        return self.patches, self.placed[1:], tuple(self.tokens.kind_ids.tolist()), tuple(here.flatten().tolist())


class Parking:
    """The blocks of one cache, of what was watched, in order.

    Attributes:
        num_parked: blocks that ever came; those that are no longer in `blocks` went because room was needed.
        nbytes: of host memory.
        cache: a StreamCache.
    """

    def __init__(self, cache):
        self.cache, self.blocks = cache, []
        self.num_parked = self.nbytes = 0

    def park(self, index: torch.Tensor, placed: Placed, patches: int, most_bytes: float) -> None:
        """Copy tokens to the host, for the cache to let go of; the oldest blocks go where the room is too small.

        Args:
            index: (K,) which of what was watched.
        """
        cache, tokens = self.cache, self.cache.tokens[WATCHED][index]
        first = cache.first_positions[WATCHED][:, index] if cache.moves else tokens.position_ids
        keys, values, means = [], [], []
        for layer in cache.layers:
            here = chosen(index, layer.stores[WATCHED].device)
            store = layer.stores[WATCHED][:, 0].index_select(-2, here)
            own = layer.first_keys[WATCHED][0].index_select(-2, here) if cache.moves else store[0]
            means.append(self.turned(own, -first).mean(-2))
            keys.append(own)
            values.append(store[1])
        parts = (torch.stack(part).cpu() for part in (keys, values, means))
        self.blocks.append(Block(tokens, placed, patches, first, *parts))
        self.num_parked += 1
        self.nbytes += self.blocks[-1].nbytes
        while self.nbytes > most_bytes:
            self.nbytes -= self.blocks.pop(0).nbytes

    def scores(self, queries: list[torch.Tensor], rows: Layout) -> torch.Tensor:
        """How near a question is to every block, in every layer.

        Args:
            queries: M times (1, G N, Q, D), rotated as the question's rows stand.
            rows: its Q rows.
        Returns:
            (M, P) sums over all query heads of mean query times mean key.
        """
        mean = self.turned(torch.cat(queries), -rows.position_ids).mean(-2).cpu()  # (M, G N, D)
        keys = torch.stack([block.mean for block in self.blocks], dim=1)  # (M, P, N, D)
        mean = mean.unflatten(1, (keys.shape[2], -1)).sum(2)  # (M, N, D): heads that share a key
        return torch.einsum("mnd,mpnd->mp", mean, keys)

    def alike(self) -> bool:
        """Whether any block may stand where another does, so that layers may bring back their own."""
        return len({block.form for block in self.blocks}) <= 1

    def recall(self, picks: torch.Tensor) -> list[Block]:
        """Copy blocks back to the device, behind all that was watched.

        Args:
            picks: (M, k) numbers of blocks, rising, for each layer its own; those of a row must be `alike` where the
                rows differ.
        Returns:
            k blocks as they stand in the cache now: where rows differ, those of the first layer, counted from their
            own grid's beginning, with the latest step and order of all layers.
        """
        cache, same = self.cache, bool((picks == picks[:1]).all())
        blocks = [self.blocks[i] for i in picks[0].tolist()]
        if not same:
            ahead = [[self.blocks[i].tokens for i in column] for column in picks.T.tolist()]
            blocks = [self._common(block, others) for block, others in zip(blocks, ahead, strict=True)]
        tokens = Layout.cat([block.tokens for block in blocks])
        first = tokens.position_ids if not same else torch.cat([block.first_positions for block in blocks], dim=1)
        for number, (layer, row) in enumerate(zip(cache.layers, picks.tolist(), strict=True)):
            parts = [self.blocks[i] for i in row]
            device = layer.stores[WATCHED].device
            keys = sent(torch.cat([part.keys[number] for part in parts], dim=1), device)
            values = sent(torch.cat([part.values[number] for part in parts], dim=1), device)
            if cache.moves and not same:
                keys = self.turned(keys, first - torch.cat([part.first_positions for part in parts], dim=1))
            now = self.turned(keys, tokens.position_ids - first) if cache.moves else keys
            layer.append(WATCHED, torch.stack([now, values])[:, None], keys[None])
        cache._list(WATCHED, tokens, first)
        return blocks

    def _common(self, block: Block, others: list[Layout]) -> Block:
        """What stands for blocks of several layers: as late as the latest of them."""
        step, order = (torch.stack([getattr(x, name) for x in others]).amax(0) for name in ("step", "order"))
        tokens = replace(block.tokens, step=step, order=order)
        if not self.cache.moves:
            return replace(block, tokens=tokens)
        here = tokens.position_ids - torch.tensor([block.placed.start]).T
        return replace(block, tokens=replace(tokens, position_ids=here), placed=block.placed._replace(start=(0, 0, 0)))

    def turned(self, keys: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
        """(..., N, K, D) rotated on by (3, K) positions."""
        turn = sent(turn[:, None], keys.device)
        cos, sin = self.cache.rotary(torch.zeros(1, device=keys.device), turn)
        return turned(keys, cos, sin)

    def state(self) -> dict:
        """In dicts of tensors and numbers, for `load_state`."""
        plain = []
        for block in self.blocks:
            facts = {field.name: getattr(block, field.name) for field in fields(block)}
            plain.append(facts | {"tokens": dict(vars(block.tokens)), "placed": tuple(block.placed)})
        return {"blocks": plain, "num_parked": self.num_parked}

    def load_state(self, state: dict) -> None:
        """Hold what another one held."""
        self.num_parked = state["num_parked"]
        self.blocks = [
            Block(**{**block, "tokens": Layout(**block["tokens"]), "placed": Placed(*block["placed"])})
            for block in state["blocks"]
        ]
        self.nbytes = sum(block.nbytes for block in self.blocks)
