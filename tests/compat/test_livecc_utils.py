"""The five names of livecc-utils: their behaviour, and no side effects."""

import functools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from qwen_vl_utils import vision_process
from transformers import Qwen2VLForConditionalGeneration

from swwatch.compat import livecc_utils as lc
from swwatch.toy.checkpoint import make_checkpoint
from swwatch.toy.clips import Recipe, write_dataset


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_dataset(folder, Recipe(1, 1, 0), workers=1)
    return str(sorted(folder.rglob("*.mp4"))[0])


def test_importing_it_changes_nothing_elsewhere():
    look = "import os; before = dict(os.environ); from qwen_vl_utils import vision_process as v; "
    look += "names = set(v.VIDEO_READER_BACKENDS); import swwatch.compat.livecc_utils; "
    look += "assert dict(os.environ) == before and set(v.VIDEO_READER_BACKENDS) == names; "
    look += "assert v.FORCE_QWENVL_VIDEO_READER is None"
    env = {key: value for key, value in os.environ.items() if "QWENVL" not in key}
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("read", [lc._reader, lc.FrameReader])
def test_strict_reading_takes_the_first_frame_that_ends_at_or_after_each_half_second(clip, read):
    reader = read(clip)
    ends = lc._ends(reader)
    frames, fps, times = lc._read_video_decord_plus({"video": reader}, strict_fps=True, return_pts=True)
    assert fps == len(frames) / len(reader) * reader.get_avg_fps()  # as if they were spread over all of it
    assert len(frames) == len(times) and len(frames) % 2 == 0
    wanted = np.arange(ends[0], ends[-1] + 1e-6, 0.5)
    expected = [int(np.argmax(ends >= stamp - 1e-6)) for stamp in wanted]
    expected += expected[-1:] * (len(expected) % 2)
    torch.testing.assert_close(frames, lc._frames(reader, expected), atol=0, rtol=0)
    assert frames.dtype == torch.uint8 and frames.shape[1] == 3


def test_a_span_counts_frames_by_their_ends_and_a_start_of_zero_is_none(clip):
    reader = lc.FrameReader(clip)
    ends = lc._ends(reader)
    _, _, times = lc._read_video_decord_plus(
        {"video": reader, "video_start": 1.0, "video_end": 3.0, "nframes": 4}, return_pts=True
    )
    inside = ends[(ends >= 1.0) & (ends <= 3.0)]
    assert times[0] == inside[0] and times[-1] == inside[-1] and len(times) == 4
    whole = lc._read_video_decord_plus({"video": reader, "video_start": 0, "nframes": 4}, return_pts=True)[2]
    assert whole[0] == ends[0] and whole[-1] == ends[-1]
    to_the_end = {"video": reader, "video_start": 1.0, "video_end": 0, "nframes": 4}
    assert lc._read_video_decord_plus(to_the_end, return_pts=True)[2][-1] == ends[-1]
    with pytest.raises(ValueError, match="no frame between"):
        lc._read_video_decord_plus({"video": reader, "video_start": 900.0})


def test_frames_in_memory_and_a_remote_loader_are_read_alike():
    frames = np.random.default_rng(0).integers(0, 255, (8, 56, 56, 3), dtype=np.uint8)
    here, fps = lc._read_video_decord_plus({"video": frames, "nframes": 4})
    there, _ = lc._read_video_decord_plus({"video": "name", "remote_loader": lambda name: frames, "nframes": 4})
    assert torch.equal(here, there) and fps == pytest.approx(1.0)
    assert torch.equal(here[0].permute(1, 2, 0), torch.as_tensor(frames[0]))


def test_a_file_that_exists_is_read_before_the_remote_loader(clip):
    def loader(name):
        raise AssertionError(name)

    assert len(lc._read_video_decord_plus({"video": clip, "remote_loader": loader, "nframes": 4})[0]) == 4
    with pytest.raises(AssertionError, match="elsewhere"):
        lc._read_video_decord_plus({"video": "elsewhere", "remote_loader": loader})


def test_more_than_480_strict_frames_are_cut_or_spread():
    frames = np.zeros((600, 4, 4, 3), dtype=np.uint8)
    first, _, cut = lc._read_video_decord_plus({"video": frames}, strict_fps=True, return_pts=True)
    _, _, spread = lc._read_video_decord_plus({"video": frames}, strict_fps=True, drop_last=False, return_pts=True)
    assert len(first) == len(cut) == len(spread) == 480
    assert cut[-1] == 240.0 and spread[-1] == 300.0
    assert len(lc._read_video_decord_plus({"video": frames})[0]) == 480


def test_sizes_follow_the_number_of_frames():
    video = torch.zeros((2, 3, 720, 1280), dtype=torch.uint8)
    assert lc._spatial_resize_video(video).shape == (2, 3, 560, 1008)
    long = lc._spatial_resize_video(video, nframes=480)
    assert long.shape == (2, 3, 196, 364) and long.dtype == torch.float32  # 91 tokens a patch


@pytest.mark.parametrize(
    ("size", "num_frames", "max_pixels", "expected"),
    [
        ((342, 608), 55, None, (336, 616)),
        ((360, 640), 300, None, (252, 476)),  # a share of the budget of all frames
        ((720, 1280), 900, None, (196, 364)),  # never less than this
        ((342, 608), 55, 50_176, (168, 280)),  # unless it is asked for
        ((360, 640), 300, 200_000, (308, 588)),
    ],
)
def test_a_readers_size_is_that_of_livecc_utils(size, num_frames, max_pixels, expected):
    """Measured with livecc-utils 0.0.2 on clips of these sizes."""
    frames = np.broadcast_to(np.zeros((1, *size, 3), dtype=np.uint8), (num_frames, *size, 3))
    assert lc.get_smart_resized_video_reader(frames, max_pixels)[1:] == expected


def test_an_odd_frame_left_out_shortens_the_times_by_one():
    """A clip of 2.3 s at 24 fps; measured with livecc-utils 0.0.2, like the indices."""
    frames, ends = np.zeros((55, 28, 28, 3), dtype=np.uint8), (np.arange(55) + 1) / 24
    reader = lc.FrameReader(frames, fps=24.0)
    clip, times, index = lc.get_smart_resized_clip(reader, 28, 28, torch.arange(6) * 0.5, ends)
    assert index == [0, 11, 23, 35] and times.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]  # told as 0.0-2.5 s
    assert clip.dtype == torch.uint8 and len(clip) == 4
    nothing, _, index = lc.get_smart_resized_clip(reader, 28, 28, torch.tensor([0.0]), ends, 99)
    assert len(nothing) == 0 and nothing.dtype == torch.uint8 and index == []


def test_a_clip_is_found_walking_on_from_an_index(clip):
    reader, height, width = lc.get_smart_resized_video_reader(clip, 301_056)
    assert height % 28 == width % 28 == 0
    pts = lc._ends(reader)
    found, times, index = lc.get_smart_resized_clip(reader, height, width, torch.tensor([0.0, 0.5, 1.0]), pts)
    assert times.tolist() == [0.0, 0.5, 1.0, 1.5] and found.shape == (4, 3, height, width)
    assert index == [int(np.argmax(pts >= stamp)) for stamp in times.tolist()]
    more, times, index = lc.get_smart_resized_clip(
        reader, height, width, torch.arange(2.0, 99.0, 0.5), pts, index[-1] + 1
    )
    assert len(more) % 2 == 0 and len(more) < len(times) and max(index) < len(pts)
    none, _, index = lc.get_smart_resized_clip(reader, height, width, torch.tensor([99.0]), pts)
    assert none.shape == (0, 3, height, width) and index == []


def test_pictures_are_taken_in_on_later_turns_and_only_where_there_is_a_place(tmp_path):
    sizes = {"hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1, "vision_depth": 1, "vision_hidden": 32}
    folder = make_checkpoint(tmp_path / "model", family="qwen2_vl", **sizes)
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder)
    prepare = functools.partial(lc.prepare_multiturn_multimodal_inputs_for_generation, model)
    video, pixels = model.config.video_token_id, torch.zeros((4, 1176))
    given = {"pixel_values_videos": pixels, "video_grid_thw": torch.tensor([[1, 2, 2]])}
    cache = model(input_ids=torch.tensor([[1, 2]]), use_cache=True).past_key_values
    shown = prepare(torch.tensor([[1, 2, video]]), next_sequence_length=1, past_key_values=cache, **given)
    assert shown["input_ids"].tolist() == [[video]] and shown["pixel_values_videos"] is pixels
    hidden = prepare(torch.tensor([[1, 2, 3]]), next_sequence_length=1, past_key_values=cache, **given)
    assert hidden["pixel_values_videos"] is None
    assert hidden["position_ids"].tolist() == [[[2]]] * 3  # counts on behind the cache
    first = prepare(torch.tensor([[1, 2, 3]]), is_first_iteration=True, **given)
    assert first["pixel_values_videos"] is pixels


def test_the_reader_is_registered_when_asked_for(clip, monkeypatch):
    monkeypatch.setattr(vision_process, "VIDEO_READER_BACKENDS", dict(vision_process.VIDEO_READER_BACKENDS))
    for name in ("FORCE_QWENVL_VIDEO_READER", "FPS_MAX_FRAMES", "VIDEO_MIN_TOKEN_NUM", "MODEL_SEQ_LEN"):
        monkeypatch.setattr(vision_process, name, getattr(vision_process, name))
    lc.register_reader()
    frames, fps = vision_process.fetch_video({"video": clip, "nframes": 4}, return_video_sample_fps=True)
    vision_process.get_video_reader_backend.cache_clear()
    assert len(frames) == 4 and fps > 0


def test_registering_brings_the_limits_of_livecc(monkeypatch, tmp_path):
    monkeypatch.setattr(vision_process, "VIDEO_READER_BACKENDS", dict(vision_process.VIDEO_READER_BACKENDS))
    for name in ("FORCE_QWENVL_VIDEO_READER", "FPS_MAX_FRAMES", "VIDEO_MIN_TOKEN_NUM", "MODEL_SEQ_LEN"):
        monkeypatch.setattr(vision_process, name, getattr(vision_process, name))
    lc.register_reader()
    long = np.broadcast_to(np.zeros((1, 720, 1280, 3), dtype=np.uint8), (600, 720, 1280, 3))
    monkeypatch.setattr(lc, "_reader", lambda video: lc.FrameReader(long, fps=2.0))
    monkeypatch.setattr(
        lc, "_frames", lambda reader, chosen: torch.zeros((1, 3, 720, 1280)).expand(len(chosen), -1, -1, -1)
    )
    resized = []
    monkeypatch.setattr(
        vision_process.transforms.functional, "resize", lambda video, size, **_: resized.append(size) or video
    )
    frames = vision_process.fetch_video({"video": "long"})
    vision_process.get_video_reader_backend.cache_clear()
    assert len(frames) == 480 and resized == [[196, 364]]
