"""Qwen3-VL, dense: norms on queries and keys, learned positions in its vision tower, DeepStack.

DeepStack: what several blocks of the tower make of a token is added, merged, behind the first layers of the LLM.
"""

import torch
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLTextAttention,
    Qwen3VLTextModel,
    Qwen3VLVisionAttention,
)

from swwatch.model.batched import BatchedTextAttention
from swwatch.model.modeling import Watching
from swwatch.model.upstream import private, swap_class
from swwatch.model.vision_attention import BatchedVisionAttention
from swwatch.rules.families import FAMILIES


class TextAttention(BatchedTextAttention, Qwen3VLTextAttention):
    """Of the LLM."""

    sliding_window = None

    def heads_of(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value = super().heads_of(hidden_states)
        return self.q_norm(query), self.k_norm(key), value

    def forward(self, hidden_states, attention_mask=None, as_it_is=None, **kwargs):
        mask = attention_mask if as_it_is is None else as_it_is
        return super().forward(hidden_states, attention_mask=mask, **kwargs)


class VisionAttention(BatchedVisionAttention, Qwen3VLVisionAttention):
    """Of the vision tower."""


class TextModel(Qwen3VLTextModel):
    """The LLM, which upstream gives no mask as it is, and rows for deeper layers only along with pixels."""

    def forward(
        self, *args, attention_mask=None, deep=None, visual_pos_masks=None, deepstack_visual_embeds=None, **kw
    ):
        """
        Args:
            attention_mask: as upstream's, or a dict whose one value goes to every layer's attention as it is.
            deep: which of the rows get something behind a layer, flags (B, L) or numbers (n,) among the B L rows, and
                what, (n, D) for each of the first layers.
        """
        if isinstance(attention_mask, dict):
            (kw["as_it_is"],) = attention_mask.values()
            attention_mask = torch.empty((1, 1, 1, 1))  # one that is ready made, which nobody reads
        if deep is not None:
            visual_pos_masks, deepstack_visual_embeds = deep
        rows = {"visual_pos_masks": visual_pos_masks, "deepstack_visual_embeds": deepstack_visual_embeds}
        return super().forward(*args, attention_mask=attention_mask, **rows, **kw)

    def _deepstack_process(self, hidden_states, visual_pos_masks, visual_embeds):
        if visual_pos_masks.dtype == torch.bool:
            return super()._deepstack_process(hidden_states, visual_pos_masks, visual_embeds)
        rows = hidden_states.flatten(0, 1)  # by numbers, for which the host does not wait as for flags
        return rows.index_copy(0, visual_pos_masks, rows[visual_pos_masks] + visual_embeds).view_as(hidden_states)


class WatchingQwen3VL(Watching, Qwen3VLForConditionalGeneration):
    """Qwen3-VL."""

    family = FAMILIES["qwen3_vl"]
    text_attention, vision_attention = TextAttention, VisionAttention

    def __init__(self, config):
        super().__init__(config)
        private(Qwen3VLTextModel, "_deepstack_process")  # which TextModel has in its place
        swap_class(self.model.language_model, TextModel)

    @property
    def num_deep(self) -> int:
        return len(self.config.vision_config.deepstack_visual_indexes)

    def mask_as_it_is(self, mask) -> dict:
        return {"full_attention": mask}


MODEL = WatchingQwen3VL
