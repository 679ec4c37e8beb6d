"""Families of models, one file each. This is the contract between a family and everything else.

A family's file is named as its row in rules.families.FAMILIES. Its MODEL derives from modeling.Watching and from
transformers' own class, whose code runs as it is, and says

    family              its row
    text_attention      BatchedTextAttention over its LLM's attention class: one forward for the new rows of many
                        caches, or for samples that share a row. Same parameters as upstream's, same result.
    vision_attention    BatchedVisionAttention over its vision tower's: chunks of one length in one call. Likewise.

and the rest of the house relies on this:

  * Time: `rules.families.t_step` says how far apart in time two patches stand. Nothing else asks which family it is.
  * A step: the tokens of its patch are one run of <|video_pad|>. Where its row has `stamps` a time stamp and
    <|vision_start|> announce every patch and <|vision_end|> closes it: they arrive, are seen and are forgotten with
    it. Markup and Turns make them, a Patch counts them, a Cursor lays them out. Else text stands before the first
    patch and behind the last, never between two.
  * A look: `watch_video` gives (merged tokens, W), all that the LLM gets of a patch. W is the width D of embeddings,
    or (1 + num_deep) D in a family whose tower feeds the first layers, too: `step` and `step_many` take the two apart,
    and who carries them from a look to a feed does not open them.
  * The tower: where its row names no windows, a block is norm1, attn (qkv in thirds of one product, proj), norm2 and
    mlp, each added to what came in, and vision_blocks runs it in these parts.
  * The LLM: cached keys are rotated by halves, and re-indexed so by cache.StreamCache; q, k and v come out of
    `heads_of`, and its norms are RMSNorms, which CudaGraphModel computes by itself.
"""

from importlib import import_module

from swwatch.errors import UserError
from swwatch.rules.families import FAMILIES

HYBRID = (
    "most of its layers are linear attention, which holds one state for all that was and no row for each token, so "
    "that nothing can be hidden from a word, forgotten or moved"
)
REFUSED = {  # why models that are near to a family are none
    "qwen3_vl_moe": "its layers choose experts for each token, with which nothing here was checked: take a dense one",
    "qwen3_5": HYBRID,
    "qwen3_5_moe": HYBRID,
}


def model_class(model_type: str, where: str = "the checkpoint") -> type:
    """The class of a family's models.

    Args:
        model_type: as config.json has it; where: the checkpoint's path, for the message.
    Raises:
        UserError: no such family; the reason, of some that are near to one.
    """
    if model_type in REFUSED:
        raise UserError(f"{where} is a model of the type {model_type!r}: {REFUSED[model_type]}")
    if model_type not in FAMILIES:
        raise UserError(f"{where} is a model of the type {model_type!r}: give one of {', '.join(FAMILIES)}")
    return import_module(f"{__name__}.{model_type}").MODEL
