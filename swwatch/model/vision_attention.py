"""The vision tower's attention without a Python loop over its chunks, and its patches without a convolution.

Outside flash-attention transformers calls attention once per window or frame, thousands of times for a batch of clips.
Here chunks of equal length go side by side in one call, with the same result. Windows of a clip have at most four
lengths (inner, right edge, bottom edge, corner), and frames have one.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from swwatch.model.upstream import attention_of
from swwatch.rules.chosen import sent

# borders between samples in the LLM's sequence: transformers hands them to the vision tower too
LLM_ONLY = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")


@dataclass(frozen=True)
class Chunks:
    """Which patches attend to one another, sorted by the length of their chunk.

    Attributes:
        groups: for each length its patches (chunks * length,), chunk after chunk; None where all chunks have it.
    """

    groups: tuple[tuple[int, torch.Tensor | None], ...]

    @classmethod
    def of(cls, cu_seqlens: torch.Tensor, device: torch.device) -> "Chunks":
        """cu_seqlens (chunks + 1,): borders of the chunks, which are waited for if they are on a device."""
        starts = cu_seqlens.tolist()
        lengths = [end - start for start, end in zip(starts, starts[1:], strict=False)]
        if len(set(lengths)) == 1:
            return cls(((lengths[0], None),))
        groups = []
        for length in sorted(set(lengths)):
            first = torch.tensor([s for s, n in zip(starts, lengths, strict=False) if n == length])
            index = (first[:, None] + torch.arange(length)).flatten()
            groups.append((length, sent(index, device)))
        return cls(tuple(groups))


class BatchedVisionAttention:
    """Vision attention; under sdpa one call for each length of chunk, anything else runs as upstream."""

    def forward(self, hidden_states, cu_seqlens, position_embeddings=None, **kwargs) -> torch.Tensor:
        """hidden_states (S, D) of S patches; cu_seqlens (chunks + 1,), borders of the chunks, or their `Chunks`.

        The samples of a batch lie behind one another, and no chunk reaches over a border of theirs.
        """
        kwargs = {key: value for key, value in kwargs.items() if key not in LLM_ONLY}
        chunks = cu_seqlens
        if not isinstance(chunks, Chunks):
            if attention_of(self.config) != "sdpa":
                return super().forward(hidden_states, cu_seqlens, position_embeddings, **kwargs)
            chunks = Chunks.of(cu_seqlens, hidden_states.device)
        qkv = self.qkv(hidden_states).view(len(hidden_states), 3, self.num_heads, -1)
        q, k, v = qkv.unbind(1)
        qkv = torch.stack([*apply_rotary_pos_emb_vision(q, k, *position_embeddings), v])  # (3, S, N, D/N)
        dropout = self.attention_dropout if self.training else 0.0

        def attend(part: torch.Tensor, length: int) -> torch.Tensor:
            q, k, v = part.unflatten(1, (-1, length)).transpose(-2, -3)  # (chunks, N, length, D/N) each
            out = scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scaling)
            return out.transpose(1, 2).flatten(0, 1)

        out = None
        for length, index in chunks.groups:
            if index is None:
                out = attend(qkv, length)
            else:
                out = torch.empty_like(qkv[0]) if out is None else out
                out = out.index_copy(0, index, attend(qkv[:, index], length))
        return self.proj(out.flatten(1))


class LinearPatchEmbed(nn.Conv3d):
    """The embedding of patches: a convolution whose kernel is as large as a patch is a matrix product, and faster so.

    It stays the module that it was, so that engines which share out weights find them when it is called.
    """

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """(S, C, T, H, W), of the kernel's size -> (S, D, 1, 1, 1)."""
        return linear(patches.flatten(1), self.weight.flatten(1), self.bias)[..., None, None, None]
