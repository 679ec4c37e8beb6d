"""How many clips fit on the device at once."""

import os

import torch

from swwatch.data.budget import BUDGETS
from swwatch.data.video import FRAMES_PER_STEP
from swwatch.model.loading import Loaded
from swwatch.model.stores import slots_for
from swwatch.rules.families import head_size

MOST = 32  # beyond it a forward is no longer bound by reading the weights, and more clips gain little
ON_CPU = 8  # there, too, reading the weights binds
WIDE = (1080, 1920)  # a picture large enough for any pixel budget to bind


def clips_at_once(number: str, loaded: Loaded, *, max_frames: int, max_new_tokens: int) -> int:
    """The number that `--clips-at-once` means here.

    Args:
        number: a whole number, or "auto": as many as half of the free memory holds, up to MOST on a GPU.
    """
    if number != "auto":
        return int(number)
    device = torch.device(loaded.model.device)
    if device.type == "cuda":
        free, most = torch.cuda.mem_get_info(device)[0], MOST
    else:
        free, most = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), ON_CPU
    each = bytes_of_clip(loaded, max_frames=max_frames, max_new_tokens=max_new_tokens)
    return max(1, min(most, free // 2 // each))


def bytes_of_clip(loaded: Loaded, *, max_frames: int, max_new_tokens: int, prompt_len: int = 64) -> int:
    """Keys and values of the longest clip, over all layers, and the room that a cache has for more; the other half of
    the memory is for activations."""
    text = loaded.model.config.text_config
    factor = loaded.processor.video_processor.patch_size * loaded.processor.video_processor.merge_size
    rows, columns = BUDGETS[loaded.settings.pixel_budget].size(*WIDE, max_frames, factor=factor)
    steps = max_frames // FRAMES_PER_STEP
    num_text = prompt_len + len(loaded.markup.around(range(steps))) + max_new_tokens
    num_tokens = num_text + steps * (rows // factor) * (columns // factor)
    width = text.num_key_value_heads * head_size(text)
    return slots_for(num_tokens) * 2 * text.num_hidden_layers * width * loaded.model.dtype.itemsize
