"""The vision tower with blocks that a SEE policy runs: see policies.see.policy.TowerState.

The tower's own forward runs as it is, in a copy that shares all weights, so that nothing of the plain tower changes.
"""

from copy import copy

import torch
from torch import nn
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from swwatch.policies.see.policy import TowerState

QUERIES, KEYS, VALUES = range(3)  # thirds of a block's one projection


class PartedBlock(nn.Module):
    """A block of the tower as a policies.see.policy.TowerBlock: its weights, run by a policy."""

    def __init__(self, block: nn.Module, number: int, reuse: TowerState):
        super().__init__()
        self.block, self.number, self._reuse = block, number, reuse

    def forward(self, states: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor], **_):
        """States (S, D) of one patch, and cosines and sines (S, D/N) of its places."""
        self._turns = position_embeddings
        return self._reuse.run(self, states)

    def norm(self, states: torch.Tensor) -> torch.Tensor:
        return self.block.norm1(states)

    def queries(self, normed: torch.Tensor, places: torch.Tensor | None = None) -> torch.Tensor:
        return self._turned(self._projected(normed, QUERIES), places)

    def keys(self, normed: torch.Tensor, places: torch.Tensor | None = None) -> torch.Tensor:
        return self._turned(self._projected(normed, KEYS), places)

    def values(self, normed: torch.Tensor) -> torch.Tensor:
        return self._projected(normed, VALUES)

    def attend(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        heads = (part.transpose(0, 1)[None] for part in (queries, keys, values))  # (1, N, n or S, D/N)
        out = scaled_dot_product_attention(*heads, scale=self.block.attn.scaling)
        return self.block.attn.proj(out[0].transpose(0, 1).flatten(1))

    def feed_forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.block.mlp(self.block.norm2(states))

    def _projected(self, normed: torch.Tensor, third: int) -> torch.Tensor:
        attention = self.block.attn
        weight, bias = (part.chunk(3)[third] for part in (attention.qkv.weight, attention.qkv.bias))
        return linear(normed, weight, bias).unflatten(1, (attention.num_heads, -1))

    def _turned(self, heads: torch.Tensor, places: torch.Tensor | None) -> torch.Tensor:
        turns = self._turns if places is None else [part[places] for part in self._turns]
        return apply_rotary_pos_emb_vision(heads, heads[:, :0], *turns)[0]  # it turns two, the other without heads


def with_blocks_run_by(reuse: TowerState, visual: nn.Module) -> nn.Module:
    """A tower over the same weights."""
    tower = copy(visual)
    tower._modules = dict(visual._modules)
    tower.blocks = nn.ModuleList(PartedBlock(block, i, reuse) for i, block in enumerate(visual.blocks))
    return tower
