"""How many pixels a frame may have: the budgets by name, and the size that each gives a frame."""

import math
from dataclasses import dataclass

from swwatch.errors import UserError

# of qwen_vl_utils 0.0.14
FRAMES_PER_PATCH = 2
MOST_TOKENS = 768  # of a frame, where a video's total is shared
NARROWEST = 200  # longer side by shorter side


@dataclass(frozen=True)
class PixelBudget:
    """How many pixels a frame may have. Either a limit per frame or a total per video, shared by its frames."""

    name: str
    min_pixels: int  # of a frame
    max_pixels: int | None = None  # of a frame
    total_pixels: int | None = None  # of a video, counting each temporal patch (2 frames) once

    def size(self, height: int, width: int, num_frames: int | None, *, factor: int = 28) -> tuple[int, int]:
        """Height and width that frames are resized to, by the rule of qwen_vl_utils 0.0.14 (`fetch_video`).

        Args:
            height, width: of the source, pixels.
            num_frames: how many frames the whole video has on the grid; None when it is not known yet.
            factor: both results are multiples of it: patch size times spatial merge size.
        Raises:
            UserError: the budget depends on the number of frames and it is not known, or the picture is too narrow.
        """
        max_pixels = self.max_pixels
        if self.total_pixels is not None:
            if num_frames is None:
                raise UserError(
                    f"the pixel budget {self.name!r} shares pixels among all frames of a video, and the "
                    "length of this one is not known yet: use the budget 'declared'"
                )
            share = self.total_pixels / num_frames * FRAMES_PER_PATCH
            max_pixels = max(min(MOST_TOKENS * factor**2, share), int(self.min_pixels * 1.05))
        if min(height, width) < 1 or max(height, width) / min(height, width) > NARROWEST:
            raise UserError(f"frames of {width}x{height} pixels: one side is more than {NARROWEST} times the other")
        size = fit(height, width, factor, self.min_pixels, max_pixels)
        if 0 in size:  # the short side of an extreme picture is rounded down to nothing
            raise UserError(f"frames of {width}x{height} pixels are too narrow for the pixel budget {self.name!r}")
        return size


def fit(height: int, width: int, factor: int, least: int, most: float) -> tuple[int, int]:
    """The nearest multiples of `factor`; where these make more than `most` pixels or fewer than `least`, sides of the
    source's proportions that do not. Float for float the rule of qwen_vl_utils' `smart_resize`, so that its models see
    here what they see there."""
    near = [max(factor, round(side / factor) * factor) for side in (height, width)]
    if math.prod(near) > most:
        shrink = math.sqrt(height * width / most)
        near = [math.floor(side / shrink / factor) * factor for side in (height, width)]
    elif math.prod(near) < least:
        grow = math.sqrt(least / (height * width))
        near = [math.ceil(side * grow / factor) * factor for side in (height, width)]
    return near[0], near[1]


BUDGETS = {
    "declared": PixelBudget("declared", min_pixels=3136, max_pixels=50_176),
    "release": PixelBudget("release", min_pixels=78_400, total_pixels=2_408_448),
    # as many tokens as `declared` gives, where a token covers 32 x 32 pixels and not 28 x 28
    "qwen3_vl": PixelBudget("qwen3_vl", min_pixels=4096, max_pixels=65_536),
    # live budgets of the systems that stream in turns (swwatch.rules.systems)
    "streamingvlm": PixelBudget("streamingvlm", min_pixels=78_400, max_pixels=602_112),
    "livecc": PixelBudget("livecc", min_pixels=78_400, max_pixels=301_056),
    # 8192 tokens for a segment of 16 s, whose release shares them as it is cut
    "vst": PixelBudget("vst", min_pixels=200_704, max_pixels=401_408),
    # what 518 x 291 pixels are, to which the release's public record says that its frames were brought
    "tww": PixelBudget("tww", min_pixels=4096, max_pixels=150_738),
}
