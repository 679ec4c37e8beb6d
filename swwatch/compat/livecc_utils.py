"""The five names of `livecc-utils` 0.0.2, so that programs written for LiveCC run by changing one import.

Written from their documented behaviour. What differs: importing this sets no environment variable and registers no
reader with qwen_vl_utils (call `register_reader` for that), and readers other than decord's are accepted.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from qwen_vl_utils import vision_process
from qwen_vl_utils.vision_process import FPS, FRAME_FACTOR, smart_nframes, smart_resize
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize
from transformers import GenerationMixin

from swwatch.data.video.reader import VideoFile

FACTOR = 28
MIN_PIXELS = 100 * FACTOR**2  # of a frame
MAX_PIXELS = 768 * FACTOR**2
TOTAL_PIXELS = 24_576 * FACTOR**2  # of a video
MAX_FRAMES = 480
EXACT_S = 1e-6  # times that differ by less are one
PIXEL_INPUTS = ("pixel_values", "pixel_values_videos", "image_grid_thw", "video_grid_thw")


class FrameReader:
    """Frames in memory, or a video file, under the few names of decord's VideoReader used here.

    Of a file the frames are decoded when they are asked for.
    """

    def __init__(self, video: str | Path | np.ndarray | torch.Tensor, fps: float = float(FPS)):
        """Args: a path, or frames (T, H, W, 3) uint8 that follow one another at `fps`."""
        if isinstance(video, str | Path):
            self._file = VideoFile(Path(video))
            table = self._file.table
            self._ends = np.append(table.starts_s[1:], table.end_s)
        else:
            self._file, self._frames = None, np.asarray(video)
            self._ends = (np.arange(len(self._frames)) + 1) / fps

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.get_batch([index])[0]

    @property
    def _frame_pts(self) -> np.ndarray:
        """(T, 2) begin and end of every frame, seconds; programs for LiveCC read it from decord's reader."""
        return np.stack([np.append(0.0, self._ends[:-1]), self._ends], axis=1)

    def get_frame_timestamp(self, index) -> np.ndarray:
        return self._frame_pts[index]

    def get_avg_fps(self) -> float:
        return len(self) / float(self._ends[-1])

    def get_batch(self, indices: Sequence[int]) -> np.ndarray:
        if self._file is None:
            return self._frames[list(indices)]
        wanted, places = np.unique(np.arange(len(self))[list(indices)], return_inverse=True)
        return np.stack(list(self._file.pictures(wanted.tolist())))[places]


def _reader(video):
    """Ours; anything that is a reader already stays, such as `decord.VideoReader(path)` for whoever wants that one."""
    return FrameReader(video) if isinstance(video, str | Path | np.ndarray | torch.Tensor) else video


def _frames(reader, indices: Sequence[int]) -> torch.Tensor:
    """Chosen frames as (T, 3, H, W) uint8, from decord's reader, torchcodec's decoder or a FrameReader."""
    if hasattr(reader, "get_frames_at"):  # torchcodec: channels first already
        return reader.get_frames_at([int(i) for i in indices]).data
    batch = reader.get_batch([int(i) for i in indices])
    frames = torch.as_tensor(batch if isinstance(batch, np.ndarray | torch.Tensor) else batch.asnumpy())
    return frames if frames.shape[1] == 3 and frames.shape[-1] != 3 else frames.permute(0, 3, 1, 2)


def _ends(reader) -> np.ndarray:
    """(T,) when each frame's display ends, seconds."""
    return np.asarray(reader.get_frame_timestamp(range(len(reader))))[:, 1]


def _read_video_decord_plus(
    ele: dict, strict_fps: bool = False, drop_last: bool = True, return_pts: bool = False
) -> tuple:
    """Frames of a video, or of a span of it.

    Args:
        ele: "video" (path, frames or reader), and optionally "video_start" and "video_end" in seconds, both
            inclusive and compared with the end of a frame's display (0 counts as none), "remote_loader" (called
            with a path where there is no such file; gives what is read), and what qwen_vl_utils' smart_nframes takes;
            at most 480 frames unless it says "max_frames".
        strict_fps: a frame every 1 / FPS from the first on, instead of evenly spread ones: the first that ends at or
            after that time, to a microsecond. (The release compares single-precision times as they are, and takes the
            next frame where rounding says so.)
        drop_last: of more than 480 strict frames the first are taken; else they are spread over the span.
        return_pts: return the chosen frames' times too.
    Returns:
        (T, 3, H, W) uint8 with T even, T over the seconds that the span's frames would last at the video's average
        rate, and with return_pts a list of T seconds.
    Raises:
        ValueError: the span has no frame.
    """
    video = ele["video"]
    if (loader := ele.get("remote_loader")) and not (isinstance(video, str | Path) and Path(video).is_file()):
        video = loader(video)
    reader = _reader(video)
    ends = _ends(reader)
    chosen = np.arange(len(ends))
    if ele.get("video_start") or ele.get("video_end"):
        start, end = ele.get("video_start") or 0.0, ele.get("video_end") or np.inf
        chosen = chosen[(ends >= start - EXACT_S) & (ends <= end + EXACT_S)]
        if not len(chosen):
            raise ValueError(f"the video has no frame between {start} and {end} s")
    ends, fps = ends[chosen], reader.get_avg_fps()
    if strict_fps:
        stamps = np.arange(ends[0], ends[-1] + EXACT_S, 1 / FPS)
        if len(stamps) > MAX_FRAMES:
            spread = np.linspace(0, len(stamps) - 1, MAX_FRAMES).round().astype(int)
            stamps = stamps[:MAX_FRAMES] if drop_last else stamps[spread]
        index = np.minimum(np.searchsorted(ends, stamps - EXACT_S), len(ends) - 1)
        index = np.append(index, index[-1:]) if len(index) % FRAME_FACTOR else index
    else:
        limits = {"max_frames": min(MAX_FRAMES, len(chosen))}
        num = smart_nframes(limits | ele, total_frames=len(chosen), video_fps=fps)
        index = np.linspace(0, len(chosen) - 1, num).round().astype(int)
    frames, sample_fps = _frames(reader, chosen[index]), len(index) / len(chosen) * fps
    return (frames, sample_fps, ends[index].tolist()) if return_pts else (frames, sample_fps)


def _spatial_resize_video(video: torch.Tensor, nframes: int | None = None) -> torch.Tensor:
    """(T, 3, H, W) -> the same frames in the size that a video of `nframes` (by default T) may have, float."""
    most = _share(nframes or len(video))
    size = smart_resize(*video.shape[-2:], factor=FACTOR, min_pixels=MIN_PIXELS, max_pixels=most)
    return _resized(video, size).float()


def _share(num_frames: int) -> float:
    """Pixels that each of so many frames may have."""
    return max(min(MAX_PIXELS, TOTAL_PIXELS / num_frames * FRAME_FACTOR), int(MIN_PIXELS * 1.05))


def _resized(video: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return resize(video, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)


def get_smart_resized_video_reader(video_path, max_pixels: int | None = None) -> tuple:
    """A reader of a video, and the height and width, multiples of 28, that its frames should be resized to.

    Args:
        max_pixels: of a frame; by default its share of what a video of so many frames may have.
    """
    reader = _reader(video_path)
    height, width = _frames(reader, [0]).shape[-2:]
    most = max_pixels or _share(min(len(reader), MAX_FRAMES))
    size = smart_resize(height, width, factor=FACTOR, min_pixels=min(MIN_PIXELS, most), max_pixels=most)
    return reader, *size


def get_smart_resized_clip(
    video_reader,
    resized_height: int,
    resized_width: int,
    timestamps: torch.Tensor,
    video_pts: np.ndarray,
    video_pts_index_from: int = 0,
) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """The frames of wanted times, looked for from an index on, so that a stream is walked through once.

    Args:
        timestamps: (n,) seconds, rising; an odd number gets one more, half a second later.
        video_pts: (T,) when each frame's display ends.
        video_pts_index_from: first frame to consider.
    Returns:
        clip (m, 3, resized_height, resized_width) uint8 with m even, the wanted times, and the m frame indices: for
        each time the first frame that ends at or after it. Where the video ends first there are more times than
        frames; where an odd frame was left out, its time is not the one that goes, but the last.
    """
    timestamps = torch.as_tensor(timestamps)
    if len(timestamps) % FRAME_FACTOR:
        timestamps = torch.cat([timestamps, timestamps[-1:] + 1 / FPS])
    index, found = video_pts_index_from, []
    for stamp in timestamps.tolist():
        while index < len(video_pts) and video_pts[index] < stamp:
            index += 1
        if index >= len(video_pts):
            break
        found.append(index)
    if len(found) % FRAME_FACTOR:
        found, timestamps = found[:-1], timestamps[:-1]
    if not found:
        return torch.empty((0, 3, resized_height, resized_width), dtype=torch.uint8), timestamps, []
    return _resized(_frames(video_reader, found), (resized_height, resized_width)), timestamps, found


def prepare_multiturn_multimodal_inputs_for_generation(
    self,
    input_ids,
    past_key_values=None,
    attention_mask=None,
    inputs_embeds=None,
    position_ids=None,
    use_cache=True,
    pixel_values=None,
    pixel_values_videos=None,
    image_grid_thw=None,
    video_grid_thw=None,
    **kwargs,
) -> dict:
    """In place of a model's `prepare_inputs_for_generation`: pictures are taken in on every turn that brings some.

    They are dropped only where the cache holds something and the tokens now fed have no place for them. The first turn
    stands where `generate` places it, in 3-D; every later token counts on from there by one on all axes, as in the
    release under transformers 4.50 (`livecc_compat`), whatever this transformers does by itself. As there, where the
    counting stands is remembered by the model: one stream on it at a time. Bind it with functools.partial(..., model).
    (swwatch itself does not use `generate`.)
    """
    begun = past_key_values is not None and past_key_values.get_seq_length() > 0
    inputs = GenerationMixin.prepare_inputs_for_generation(
        self,
        input_ids,
        past_key_values=past_key_values,
        attention_mask=attention_mask,
        inputs_embeds=inputs_embeds,
        position_ids=None if begun else position_ids,
        use_cache=use_cache,
        **kwargs,
    )
    fed = inputs.get("input_ids")
    if begun:
        num_fed = inputs["inputs_embeds"].shape[1] if fed is None else fed.shape[1]
        inputs["position_ids"] = _counting_on(self, past_key_values.get_seq_length(), num_fed, attention_mask)

    given = dict(zip(PIXEL_INPUTS, (pixel_values, pixel_values_videos, image_grid_thw, video_grid_thw), strict=True))
    tokens = {"image": self.config.image_token_id, "video": self.config.video_token_id}
    for name, value in given.items():
        kind = "video" if "video" in name else "image"
        shown = fed is None or bool((fed == tokens[kind]).any())
        inputs[name] = value if shown or not begun else None
    return inputs


def _counting_on(model, num_cached: int, num_fed: int, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """(3, B, num_fed) positions of tokens behind those in the cache; padding counts for none."""
    if attention_mask is None:
        counted = torch.arange(num_cached, num_cached + num_fed, device=model.device)[None]
    else:
        counted = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -num_fed:]
    if (delta := model.model.rope_deltas) is not None:
        counted = counted + delta.to(counted.device)
    return counted.expand(3, *counted.shape)


def register_reader() -> None:
    """Let qwen_vl_utils read videos in this way, under the name "decord+", prefer it, and keep to LiveCC's limits."""

    def read(ele: dict) -> tuple[torch.Tensor, dict, float]:
        frames, fps = _read_video_decord_plus(ele)
        facts = {"fps": fps, "frames_indices": list(range(len(frames))), "total_num_frames": len(frames)}
        return frames, facts | {"video_backend": "decord+"}, fps

    vision_process.VIDEO_READER_BACKENDS["decord+"] = read
    vision_process.FORCE_QWENVL_VIDEO_READER = "decord+"
    vision_process.FPS_MAX_FRAMES = MAX_FRAMES
    vision_process.VIDEO_MIN_TOKEN_NUM = MIN_PIXELS // FACTOR**2
    vision_process.MODEL_SEQ_LEN = TOTAL_PIXELS / FACTOR**2 / 0.9  # of which it gives nine tenths to a video
    vision_process.get_video_reader_backend.cache_clear()
