"""Families of models, one file each. This is the contract between a family and everything else.

A family's file is named as its row in rules.families.FAMILIES. Its MODEL derives from modeling.Watching and from
transformers' own class, whose code runs as it is, and says

    family              its row
    text_attention      BatchedTextAttention over its LLM's attention class: one forward for the new rows of many
                        caches, or for samples that share a row. Same parameters as upstream's, same result.
    vision_attention    BatchedVisionAttention over its vision tower's: chunks of one length in one call. Likewise.

and the rest of the house relies on this:

  * Time: `rules.families.t_step` says how far apart in time two patches stand. Nothing else asks which family it is.
  * A step: the tokens of its patch are one run of <|video_pad|>, and text stands before the first patch and behind the
    last, never between two. A family with text inside a step (a time stamp before each patch, say) is told apart where
    steps are made into tokens (data/prompt.py, data/turns/prompt.py) and where a Cursor lays out a patch.
  * A look: `watch_video` gives (merged tokens, D), all that the LLM gets of a patch. A family whose tower feeds deeper
    layers, too, returns those rows along with the embeddings, and `step` and `step_many` take both: who carries
    features from a look to a feed does not open them.
  * The LLM: cached keys are rotated by halves, and re-indexed so by cache.StreamCache; q, k and v are plain
    projections, and its norms are RMSNorms, which CudaGraphModel computes by itself.
"""

from importlib import import_module

from swwatch.errors import UserError
from swwatch.rules.families import FAMILIES


def model_class(model_type: str, where: str = "the checkpoint") -> type:
    """The class of a family's models.

    Args:
        model_type: as config.json has it; where: the checkpoint's path, for the message.
    Raises:
        UserError: no such family.
    """
    if model_type not in FAMILIES:
        raise UserError(f"{where} is a model of the type {model_type!r}: give one of {', '.join(FAMILIES)}")
    return import_module(f"{__name__}.{model_type}").MODEL
