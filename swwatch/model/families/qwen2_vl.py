"""Qwen2-VL, LiveCC's family: no windows in its vision tower, and one temporal position a patch."""

from transformers import Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLAttention
from transformers.models.qwen2_vl.modeling_qwen2_vl import VisionAttention as Qwen2VLVisionAttention

from swwatch.model.batched import BatchedTextAttention
from swwatch.model.modeling import Watching
from swwatch.model.upstream import keep_names_of_weights
from swwatch.model.vision_attention import BatchedVisionAttention
from swwatch.rules.families import FAMILIES


class TextAttention(BatchedTextAttention, Qwen2VLAttention):
    """Of the LLM."""


class VisionAttention(BatchedVisionAttention, Qwen2VLVisionAttention):
    """Of the vision tower."""


class WatchingQwen2VL(Watching, Qwen2VLForConditionalGeneration):
    """Qwen2-VL."""

    family = FAMILIES["qwen2_vl"]
    text_attention, vision_attention = TextAttention, VisionAttention


MODEL = WatchingQwen2VL
keep_names_of_weights(MODEL)
