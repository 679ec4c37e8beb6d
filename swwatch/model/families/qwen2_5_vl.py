"""Qwen2.5-VL: windows in its vision tower, temporal positions by the second."""

from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLAttention, Qwen2_5_VLVisionAttention

from swwatch.model.batched import BatchedTextAttention
from swwatch.model.modeling import Watching
from swwatch.model.upstream import keep_names_of_weights
from swwatch.model.vision_attention import BatchedVisionAttention
from swwatch.rules.families import FAMILIES


class TextAttention(BatchedTextAttention, Qwen2_5_VLAttention):
    """Of the LLM."""


class VisionAttention(BatchedVisionAttention, Qwen2_5_VLVisionAttention):
    """Of the vision tower."""


class WatchingQwen2_5_VL(Watching, Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL."""

    family = FAMILIES["qwen2_5_vl"]
    text_attention, vision_attention = TextAttention, VisionAttention


MODEL = WatchingQwen2_5_VL
keep_names_of_weights(MODEL)
