"""From a still picture to RGB, as a viewer shows it, wherever it comes from."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from swwatch.data.video.frames import VideoError


def read_picture(path: Path) -> np.ndarray:
    """A file as (H, W, 3) uint8, see `rgb_of`.

    Raises:
        VideoError: it is no picture that can be read.
    """
    try:
        with Image.open(path) as picture:
            return rgb_of(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoError(path, f"it is no picture that can be read ({error})") from error


def rgb_of(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8: turned by its EXIF orientation, on white where it is transparent, 16 bits scaled to 8.

    Args:
        image: opened by Pillow, whose errors on damage come from here.
    Raises:
        ValueError: pixels are floating-point numbers, whose range nothing tells.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers: save it with 8 or 16 bits")
    shown = ImageOps.exif_transpose(image)
    if shown.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
        grey = np.clip(np.asarray(shown) >> 8, 0, 255).astype(np.uint8)
        return grey[..., None].repeat(3, axis=2)
    if shown.has_transparency_data:
        shown = shown.convert("RGBA")
        white = Image.new("RGB", shown.size, "white")
        white.paste(shown, mask=shown.getchannel("A"))
        shown = white
    return np.array(shown.convert("RGB"))
