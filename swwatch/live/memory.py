"""The fast path of live sessions: how much memory is set aside for each, before it begins."""

import math
from dataclasses import dataclass, replace

import torch

from swwatch.data.budget import BUDGETS
from swwatch.engine.choose import why_not_fast
from swwatch.errors import UserError
from swwatch.model.cuda_graph_model import CudaGraphModel
from swwatch.model.loading import Loaded
from swwatch.model.static_cache import CacheFull

QUESTIONS = 1024  # tokens: of the system prompt, all questions and the suffix
HEADERS = 64  # tokens: an answer's header, once for each question that is answered anew


@dataclass(frozen=True)
class Capacity:
    """What one live session may come to, on the fast path.

    Attributes:
        video_s: seconds of video.
        tokens: spoken, in all its answers.
    """

    video_s: int = 600
    tokens: int = 4096

    def __post_init__(self):
        if self.video_s < 1 or self.tokens < 1:
            raise UserError(f"a session needs room for 1 second and 1 token at least: {self}")

    def outgrown(self, error: CacheFull) -> UserError:
        """What to say to the user of a session that came to its limit."""
        return UserError(
            f"the session has outgrown its room of {self.video_s} s of video and {self.tokens} spoken tokens: open "
            f"another one, or give the stage a larger room ({error})"
        )


def settle_fast(fast: bool | None, loaded: Loaded) -> tuple[bool, str]:
    """Whether sessions share a fast model, and why, as an addition to the engine's reason.

    Raises:
        UserError: it was asked for, and these sessions cannot have it.
    """
    model, settings = loaded.model, loaded.settings
    refused = why_not_fast(settings.variant, settings.own_keep.forgets or None, settings.schedule, settings.think)
    if fast and refused:
        raise UserError(f"no fast path here: {refused}. Leave it out")
    if fast is not None:
        return fast, ""
    if model.device.type != "cuda":
        return False, ""  # buckets and masks would be for nothing
    if refused:
        return False, f"; no CUDA graphs: {refused}"
    if model.attention != "sdpa":
        return False, f"; no CUDA graphs, for they know no attention but sdpa, and this is {model.attention!r}"
    if len({p.device for p in model.parameters()}) > 1:
        return False, "; no CUDA graphs: the model is spread over several devices"
    return True, "; CUDA graphs"


def with_fast_path(loaded: Loaded, capacity: Capacity, seats: int) -> Loaded:
    """The same model on the fast path (model.cuda_graph_model), with a seat for each of so many sessions.

    Raises:
        UserError: the memory of so many seats is not there, or the fast path cannot run the model.
    """
    budget, processor = BUDGETS[loaded.settings.pixel_budget], loaded.processor.video_processor
    most = budget.max_pixels // (processor.patch_size * processor.merge_size) ** 2  # tokens a step
    num_steps = math.ceil(capacity.video_s / loaded.settings.step_s)
    most += len(loaded.markup.around([num_steps]))
    watched, said = QUESTIONS + num_steps * most, HEADERS + capacity.tokens
    try:
        return replace(loaded, model=CudaGraphModel(loaded.model, watched, said, seats=seats))
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise UserError(
            f"no memory for {seats} sessions of {capacity.video_s} s of video and {capacity.tokens} spoken tokens "
            f"each: allow fewer sessions, or give each less room ({(str(error).splitlines() or ['out of memory'])[0]})"
        ) from error
