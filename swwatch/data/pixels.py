"""From frames to the vision tower's input: resized by a pixel budget, normalised, cut into patches."""

import copy
from collections.abc import Iterable
from functools import cache

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize

from swwatch.data.budget import PixelBudget
from swwatch.data.video import FRAMES_PER_STEP, StepFrames


@cache
def stream_beside(device: torch.device) -> torch.cuda.Stream:
    """The CUDA stream that frames are encoded on, one for all encoders of a device.

    torch has 32 streams of each priority and hands them out again and again. With one for each encoder, and there is
    an encoder for each live session, some would be those on which a model records its graphs: recording forbids that
    another thread works there. Of the high priority there are no others in this project.
    """
    return torch.cuda.Stream(device, priority=-1)


class FrameEncoder:
    """Turns frames into `pixel_values_videos` and `video_grid_thw` with a checkpoint's own video processor.

    Each temporal patch is encoded from its own two frames alone, so steps may be encoded one by one or together.
    Files are decoded by the CPU in any case: decord's and PyAV's packages have no other decoder.
    """

    def __init__(self, video_processor, budget: PixelBudget, device: torch.device | str | None = None):
        """
        Args:
            video_processor: a checkpoint's `AutoProcessor.from_pretrained(...).video_processor`.
            budget: one of `BUDGETS`.
            device: where frames are resized and normalised; by default the CPU, whose values training uses. A GPU
                may round a pixel the other way, by 1 of 255. It works on the CUDA stream `stream_beside`.
        """
        self.device = torch.device(device or "cpu")
        self._last: tuple[np.ndarray, torch.Tensor] | None = None  # a picture that stays, and in its size
        self._stream = stream_beside(self.device) if self.device.type == "cuda" else None
        self.video_processor = copy.copy(video_processor)
        self.video_processor.cap_pixels_per_frame = False  # the budget decides; unset, transformers 5.17 warns
        self.budget = budget
        self.merge_size = video_processor.merge_size
        self.factor = video_processor.patch_size * video_processor.merge_size

    def size(self, height: int, width: int, num_frames: int | None) -> tuple[int, int]:
        """Height and width in which source frames of this size are encoded; arguments and errors of
        `PixelBudget.size`."""
        return self.budget.size(height, width, num_frames, factor=self.factor)

    def tokens_per_step(self, height: int, width: int, num_frames: int | None) -> int:
        """Video tokens of one step, for source frames of this size; arguments and errors of `size`."""
        rows, columns = self.size(height, width, num_frames)
        return rows * columns // self.factor**2

    def encode(self, frames: np.ndarray, num_frames: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """`resize`, then `patches`.

        Args:
            frames: (2n, H, W, 3) uint8, RGB: n steps of a video.
            num_frames: of the whole video, for the budget; None when not known yet.
        Returns:
            `pixel_values_videos` (n * rows * columns, D) float32 and `video_grid_thw` (1, 3) int64: n, rows, columns
            in patches before the spatial merge, on the CPU. The pixels are on `device`, and complete.
        Raises:
            UserError: see `PixelBudget.size`.
        """
        if self._stream is None:
            return self.patches(self.resize(frames, num_frames))
        with torch.cuda.stream(self._stream):
            pixels, grid = self.patches(self.resize(frames, num_frames))
        self._stream.synchronize()  # what the model's streams are at goes on meanwhile
        pixels.record_stream(torch.cuda.current_stream(self.device))
        return pixels, grid

    def resize(self, frames: np.ndarray, num_frames: int | None) -> torch.Tensor:
        """Frames in the budget's size, bicubic and antialiased as in qwen_vl_utils: (2n, 3, h, w) uint8.

        Args and errors as for `encode`.
        """
        size = self.size(*frames.shape[1:3], num_frames)
        is_one = not frames.strides[0]  # on display throughout, see data.live.frames.pair; and often for steps on end
        before, small = self._last or (None, None)  # read once: two threads of a session may be here
        is_known = is_one and before is not None and before.__array_interface__ == frames.__array_interface__
        if is_known and small.shape[2:] == size:
            return small
        video = torch.empty((len(frames), 3, *size), dtype=torch.uint8, device=self.device)
        pictures = frames[:1] if is_one else frames
        for place, frame in enumerate(pictures):  # one by one: each takes 13 times its bytes meanwhile
            own = torch.from_numpy(np.require(frame, requirements=["C", "W"]))
            picture = own.to(self.device).permute(2, 0, 1)[None]
            video[place] = resize(picture, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)[0]
        video[len(pictures) :] = video[:1]
        self._last = (frames, video) if is_one else None
        return video

    def resize_steps(self, steps: Iterable[StepFrames]) -> torch.Tensor:
        """As `resize` of the whole clip, bit for bit, with one step in full size in memory at a time.

        Args:
            steps: of data.video.iter_steps.
        """
        video = None
        for step in steps:
            small = self.resize(step.frames, step.num_frames)
            if video is None:
                video = small.new_empty((step.num_frames, *small.shape[1:]))
            video[step.step * FRAMES_PER_STEP :][:FRAMES_PER_STEP] = small
        return video

    def patches(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rescale, normalise and cut frames from `resize` into patches; returns what `encode` does."""
        encoded = self.video_processor(videos=[video], do_resize=False, do_sample_frames=False, return_tensors="pt")
        return encoded["pixel_values_videos"], encoded["video_grid_thw"].cpu()


def merged_grids(video_grid_thw: torch.Tensor, merge_size: int) -> list[tuple[int, int]]:
    """Rows and columns of each step's tokens after the spatial merge, steps in order.

    Args:
        video_grid_thw: (num_videos, 3) temporal patches, rows, columns before the merge.
        merge_size: `spatial_merge_size` of the checkpoint.
    """
    grids = []
    for steps, rows, columns in video_grid_thw.tolist():
        if rows % merge_size or columns % merge_size:
            raise ValueError(f"a grid of {rows} x {columns} patches cannot be merged by {merge_size}")
        grids += [(rows // merge_size, columns // merge_size)] * steps
    return grids
