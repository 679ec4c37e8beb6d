"""One forward of the LLM for the new rows of several sessions, or for samples that share rows, without padding.

The rows lie one behind the other in one sequence, so that every linear layer reads its weights once for all of them.
Attention alone runs session by session, each against its own cache, or on the samples as rows of their own. Positions
are explicit, so nothing else can tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb, eager_attention_forward

from swwatch.model.attention import SplitSamples
from swwatch.model.cache import StreamCache
from swwatch.model.upstream import attention_of


@dataclass(frozen=True)
class SessionBatch:
    """The caches of n sessions, and how many of the new rows belong to each."""

    caches: Sequence[StreamCache]
    sizes: Sequence[int]


class BatchedTextAttention:
    """The LLM's attention; given a StreamCache, or a `SessionBatch` and n masks, it runs session by session, given
    `SplitSamples` on the samples of a batch as rows of their own, anything else as upstream."""

    def heads_of(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(..., D) -> queries, keys and values before the rotation, each (..., heads, D/N)."""
        projections, shape = (self.q_proj, self.k_proj, self.v_proj), (*hidden_states.shape[:-1], -1, self.head_dim)
        return tuple(project(hidden_states).view(shape) for project in projections)

    def forward(
        self,
        hidden_states,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        position_embeddings=None,
        **kwargs,
    ):
        """hidden_states (B, Q, D); with a SessionBatch B is 1 and attention_mask is a list of n masks."""
        if isinstance(past_key_values, StreamCache) and not isinstance(attention_mask, SplitSamples):
            past_key_values = SessionBatch([past_key_values], [hidden_states.shape[1]])
            attention_mask = [attention_mask]
        if not isinstance(attention_mask, SplitSamples) and not isinstance(past_key_values, SessionBatch):
            return super().forward(
                hidden_states,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                position_embeddings=position_embeddings,
                **kwargs,
            )
        q, k, v = (heads.transpose(1, 2) for heads in self.heads_of(hidden_states))
        q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
        backend = attention_of(self.config)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(backend, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        options = {"dropout": dropout, "scaling": self.scaling, "sliding_window": self.sliding_window, **kwargs}
        if isinstance(attention_mask, SplitSamples):
            if past_key_values is not None:
                k, v = past_key_values.update(k, v, self.layer_idx)
            q, k, v = (_as_rows(x, attention_mask) for x in (q, k, v))
            output = attend(self, q, k, v, attention_mask.mask, **options)[0]  # (S, M, N, D/N)
            output = output.flatten(0, 1).index_select(0, attention_mask.back)
            return self.o_proj(output.view(*hidden_states.shape[:2], -1)), None
        if backend == "sdpa" and hidden_states.device.type == "cpu":
            attend = grouped_sdpa
        outputs, sizes = [], past_key_values.sizes
        parts = (x.split(sizes, dim=2) if len(sizes) > 1 else [x] for x in (q, k, v))
        for cache, mask, *qkv in zip(past_key_values.caches, attention_mask, *parts, strict=True):
            keys, values = cache.update(*qkv[1:], self.layer_idx, qkv[0])
            outputs.append(attend(self, qkv[0], keys, values, mask, **options)[0])  # (1, Q of the session, N, D/N)
        return self.o_proj((torch.cat(outputs, dim=1) if len(sizes) > 1 else outputs[0]).flatten(2)), None


def grouped_sdpa(
    module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, *, scaling: float, **_
) -> tuple[torch.Tensor, None]:
    """What upstream's "sdpa" computes under a mask, to the bit, without a copy of the keys and values for each query
    head, which takes most of the time of a word after a long stream.

    For a CPU: on CUDA not every kernel that torch may choose takes keys that stand in memory once for several heads
    (the fast path names those that do).

    Args:
        query: (B, N, Q, D/N).
        key, value: (B, N', K, D/N), each for N / N' query heads.
        mask: (B or 1, 1, Q, K) bool or additive.
    Returns:
        (B, Q, N, D/N), and None.
    """
    batch, heads, groups = len(query), key.shape[1], query.shape[1] // key.shape[1]
    query = query.reshape(batch * heads, groups, *query.shape[2:])
    key, value = (x.flatten(0, 1)[:, None].expand(-1, groups, -1, -1) for x in (key, value))
    mask = mask if len(mask) == 1 else mask.repeat_interleave(heads, dim=0)
    output = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    output = output.transpose(1, 2).unflatten(0, (batch, heads))  # (B, N', Q, N / N', D/N)
    return output.transpose(1, 2).flatten(2, 3).contiguous(), None


def _as_rows(x: torch.Tensor, apart: SplitSamples) -> torch.Tensor:
    """(B, N, L, D/N) of a batch -> (S, N, M, D/N) of its samples."""
    samples = x.transpose(1, 2).flatten(0, 1).index_select(0, apart.index)
    return samples.unflatten(0, (len(apart.mask), -1)).transpose(1, 2)


def watch_many(model, pixel_values: Sequence[torch.Tensor], grids_thw: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """`model.watch_video` for steps of n sessions in one call.

    Args:
        pixel_values: n tensors (patches, D).
        grids_thw: n tensors (1, 3), patches before the merge.
    Returns:
        n tensors (merged tokens, W).
    """
    merge = model.config.vision_config.spatial_merge_size**2
    sizes = [int(grid.prod(dim=1).sum()) // merge for grid in grids_thw]
    return list(model.watch_video(torch.cat(list(pixel_values)), torch.cat(list(grids_thw))).split(sizes))
