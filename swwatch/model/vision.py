"""The vision tower's attention without a Python loop over its chunks.

Outside flash-attention transformers calls attention once per window or frame, thousands of times for a batch of clips.
Chunks of equal length go side by side in one call instead, with the same result to the bit on a CPU.
"""

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VLVisionAttention,
    apply_rotary_pos_emb_vision,
)


class BatchedVisionAttention(Qwen2_5_VLVisionAttention):
    """Qwen2.5-VL's vision attention; equal chunks under sdpa run as one batch, anything else runs as upstream."""

    def forward(self, hidden_states, cu_seqlens, position_embeddings=None, **kwargs) -> torch.Tensor:
        """hidden_states (S, D) of S patches; cu_seqlens (chunks + 1,), borders of the chunks."""
        lengths = cu_seqlens.diff()
        length = int(lengths[0])
        if self.config._attn_implementation != "sdpa" or not bool((lengths == length).all()):
            return super().forward(hidden_states, cu_seqlens, position_embeddings, **kwargs)
        num_patches = hidden_states.shape[0]
        q, k, v = self.qkv(hidden_states).view(num_patches, 3, self.num_heads, -1).unbind(1)
        q, k = apply_rotary_pos_emb_vision(q, k, *position_embeddings)
        q, k, v = (x.view(-1, length, self.num_heads, x.shape[-1]).transpose(1, 2) for x in (q, k, v))
        dropout = self.attention_dropout if self.training else 0.0
        out = scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scaling)
        return self.proj(out.transpose(1, 2).reshape(num_patches, -1))
