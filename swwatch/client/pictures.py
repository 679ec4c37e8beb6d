"""Frames as files."""

import io

import numpy as np
from PIL import Image

from swwatch.errors import UserError

QUALITY = 90


def as_jpeg(frame: np.ndarray) -> bytes:
    """A JPEG file of (H, W, 3) uint8 RGB. Raises UserError: anything else."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise UserError("a frame must be an array (height, width, 3) of uint8, RGB, or a picture file's bytes")
    out = io.BytesIO()
    Image.fromarray(frame).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
