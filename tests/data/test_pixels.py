"""Sizes by qwen_vl_utils' rule, values by the checkpoint's processor, steps independent of each other."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor

from swwatch.data import pixels
from swwatch.data.budget import BUDGETS, FRAMES_PER_PATCH, MOST_TOKENS, NARROWEST, PixelBudget, fit
from swwatch.data.live.frames import pair
from swwatch.data.pixels import FrameEncoder, merged_grids, resize, stream_beside
from swwatch.errors import UserError


@pytest.fixture(scope="module")
def qwen():
    """qwen_vl_utils' own code; everything else here runs without it."""
    return pytest.importorskip("qwen_vl_utils.vision_process")


@pytest.fixture(scope="module")
def video_processor(tiny_checkpoint):
    return AutoProcessor.from_pretrained(tiny_checkpoint).video_processor


def noise(num_frames, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("seconds, tokens", [(5, 594), (10, 299), (20, 144), (30, 91)])
def test_release_budget_gives_the_releases_tokens_per_step(seconds, tokens):
    height, width = BUDGETS["release"].size(720, 1280, 2 * seconds)
    assert height % 28 == width % 28 == 0
    assert height * width // 28**2 == tokens


def test_declared_budget_gives_64_tokens_for_a_square_and_keeps_small_frames():
    declared = BUDGETS["declared"]
    assert declared.size(1000, 1000, None) == (224, 224)
    assert declared.size(56, 56, None) == (56, 56)
    assert declared.size(56, 112, 16) == (56, 112)
    assert declared.size(20, 20, 16) == (56, 56)  # never below 3136 pixels


@given(st.integers(16, 2200), st.integers(16, 2200), st.integers(1, 30), st.sampled_from(sorted(BUDGETS)))
def test_sizes_stay_inside_the_budget(height, width, num_steps, name):
    budget = BUDGETS[name]
    try:
        rows, columns = budget.size(height, width, 2 * num_steps)
    except UserError:
        assert max(height, width) / min(height, width) > 20
        return
    most = budget.max_pixels or max(int(budget.min_pixels * 1.05), budget.total_pixels / num_steps)
    assert rows % 28 == columns % 28 == 0 and min(rows, columns) > 0
    small = height * width < budget.min_pixels  # enlarged, and then rounded up to the factor
    assert rows * columns <= most or min(rows, columns) == 28 or small and rows * columns <= 2 * most
    assert rows * columns >= budget.min_pixels or not small


def test_release_budget_needs_the_length():
    with pytest.raises(UserError, match="'declared'"):
        BUDGETS["release"].size(720, 1280, None)


@settings(max_examples=500)
@given(
    st.integers(1, 4000), st.integers(1, 4000), st.sampled_from([14, 28, 32]), st.integers(1, 10**6), st.floats(1, 9)
)
def test_sides_are_those_of_qwen_vl_utils(qwen, height, width, factor, least, more):
    most = least * more
    if max(height, width) <= 200 * min(height, width):
        theirs = qwen.smart_resize(height, width, factor=factor, min_pixels=least, max_pixels=most)
        assert fit(height, width, factor, least, most) == theirs


def test_limits_are_those_of_qwen_vl_utils(qwen):
    ours = FRAMES_PER_PATCH, MOST_TOKENS, NARROWEST
    assert ours == (qwen.FRAME_FACTOR, qwen.VIDEO_MAX_TOKEN_NUM, qwen.MAX_RATIO)


@pytest.mark.parametrize("height, width", [(10, 2100), (28, 4000)])
def test_a_sliver_of_a_picture_is_an_error(height, width):
    with pytest.raises(UserError, match=f"{width}x{height}"):
        BUDGETS["declared"].size(height, width, None)


@pytest.mark.parametrize("name", sorted(BUDGETS))
@pytest.mark.parametrize(
    "num_frames, height, width", [(4, 90, 160), (4, 300, 200), (10, 56, 84), (2, 700, 500), (60, 196, 420)]
)
def test_resizing_equals_qwen_vl_utils(qwen, video_processor, monkeypatch, name, num_frames, height, width):
    frames, budget = noise(num_frames, height, width), BUDGETS[name]
    reader = {"decord": lambda ele: (torch.from_numpy(frames).permute(0, 3, 1, 2), {}, 2.0)}
    monkeypatch.setattr(qwen, "VIDEO_READER_BACKENDS", reader)
    monkeypatch.setattr(qwen, "get_video_reader_backend", lambda: "decord")
    limits = {"max_pixels": budget.max_pixels, "total_pixels": budget.total_pixels, "min_pixels": budget.min_pixels}
    resized = qwen.fetch_video({"video": "x"} | {key: value for key, value in limits.items() if value})
    theirs = video_processor(
        videos=[resized], do_resize=False, do_sample_frames=False, return_tensors="pt", cap_pixels_per_frame=False
    )
    ours_pixels, ours_grid = FrameEncoder(video_processor, budget).encode(frames, num_frames)
    assert torch.equal(ours_grid, theirs["video_grid_thw"])
    torch.testing.assert_close(ours_pixels, theirs["pixel_values_videos"], rtol=0, atol=1e-6)


def test_without_resizing_values_equal_the_processors_own_path(video_processor):
    frames = noise(6, 56, 84)
    theirs = video_processor(videos=[frames], do_sample_frames=False, return_tensors="pt", cap_pixels_per_frame=False)
    pixels, grid = FrameEncoder(video_processor, BUDGETS["declared"]).encode(frames, 6)
    assert grid.tolist() == [[3, 4, 6]] and grid.dtype == torch.int64
    assert pixels.shape == (3 * 4 * 6, 3 * 2 * 14 * 14) and pixels.dtype == torch.float32
    assert torch.equal(pixels, theirs["pixel_values_videos"])
    assert pixels.abs().max() < 3  # normalised, not 0..255


def test_first_value_by_hand(video_processor):
    frames = np.zeros((2, 56, 56, 3), np.uint8)
    frames[0, 0, 0] = 255
    pixels, _ = FrameEncoder(video_processor, BUDGETS["declared"]).encode(frames, 2)
    mean, std = video_processor.image_mean[0], video_processor.image_std[0]
    assert pixels[0, 0].item() == pytest.approx((1 - mean) / std, abs=1e-5)
    assert pixels[0, 1].item() == pytest.approx(-mean / std, abs=1e-5)


@settings(max_examples=12, deadline=None)
@given(
    height=st.integers(30, 300),
    width=st.integers(30, 300),
    num_steps=st.integers(1, 5),
    name=st.sampled_from(sorted(BUDGETS)),
)
def test_steps_one_by_one_equal_the_whole_clip(video_processor, height, width, num_steps, name):
    frames = noise(2 * num_steps, height, width, seed=height)
    encoder = FrameEncoder(video_processor, BUDGETS[name])
    whole, grid = encoder.encode(frames, len(frames))
    parts = [encoder.encode(frames[i : i + 2], len(frames)) for i in range(0, len(frames), 2)]
    assert torch.equal(torch.cat([pixels for pixels, _ in parts]), whole)
    assert all(torch.equal(part[0, 1:], grid[0, 1:]) and part[0, 0] == 1 for _, part in parts)
    assert grid[0, 0] == num_steps


def test_the_checkpoints_own_processor_decides_and_is_left_alone(tiny_checkpoint):
    processor = AutoProcessor.from_pretrained(tiny_checkpoint).video_processor
    before = processor.to_dict()
    frames, budget = noise(2, 56, 56), BUDGETS["declared"]
    plain, _ = FrameEncoder(processor, budget).encode(frames, 2)
    assert processor.to_dict() == before
    processor.image_mean, processor.image_std = [0.0] * 3, [1.0] * 3
    own, _ = FrameEncoder(processor, budget).encode(frames, 2)
    assert 0 <= own.min() and own.max() <= 1 and plain.min() < 0


def test_a_total_is_shared_by_the_frames():
    budget = PixelBudget("test", min_pixels=3136, total_pixels=20 * 28**2)
    areas = [np.prod(budget.size(560, 560, 2 * steps)) // 28**2 for steps in (1, 5, 20)]
    assert areas == [16, 4, 4]  # 20 tokens, 4 tokens, the least a frame may have


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("height, width", [(720, 1280), (90, 160), (56, 84)])
def test_on_cuda_pixels_are_those_of_the_cpu_but_for_rounding(video_processor, height, width):
    """Both compute in float32 and round to 0..255; sums in another order may round the other way, by one."""
    frames, budget = noise(4, height, width), BUDGETS["declared"]
    here, grid = FrameEncoder(video_processor, budget).encode(frames, 4)
    there, same_grid = FrameEncoder(video_processor, budget, device="cuda").encode(frames, 4)
    assert there.is_cuda and not same_grid.is_cuda and torch.equal(grid, same_grid)
    difference = (there.cpu() - here).abs()
    assert float(difference.max()) < 1.01 / 255 / min(video_processor.image_std)
    assert float((difference > 1e-5).float().mean()) < 0.01


def test_merged_grids_are_one_a_step():
    grids = merged_grids(torch.tensor([[2, 4, 6], [1, 8, 4]]), 2)
    assert grids == [(2, 3), (2, 3), (4, 2)]
    with pytest.raises(ValueError, match="3 x 4"):
        merged_grids(torch.tensor([[1, 3, 4]]), 2)


def test_however_many_encoders_there_are_they_share_one_cuda_stream(video_processor, monkeypatch):
    """torch has 32 of a priority; one more encoder would work where a model records its graphs."""
    made = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device, priority=0: made.append(priority) or object())
    stream_beside.cache_clear()
    try:
        encoders = [FrameEncoder(video_processor, BUDGETS["declared"], "cuda") for _ in range(40)]
    finally:
        stream_beside.cache_clear()
    assert made == [-1] and len({id(encoder._stream) for encoder in encoders}) == 1


def test_a_picture_that_stays_is_resized_once(video_processor, monkeypatch):
    encoder = FrameEncoder(video_processor, BUDGETS["declared"])
    frame = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    both, resized = encoder.resize(np.stack([frame, frame]), None), []
    monkeypatch.setattr(pixels, "resize", lambda *a, **how: resized.append(a) or resize(*a, **how))
    for _ in range(3):  # steps on end
        assert torch.equal(encoder.resize(pair(frame, frame), None), both) and len(resized) == 1
    other = frame[::-1].copy()
    assert not torch.equal(encoder.resize(pair(other, other), None), both) and len(resized) == 2
