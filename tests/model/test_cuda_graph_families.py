"""The fast path of the other family: Qwen2-VL, whose vision tower has no windows."""

from random import Random

import torch

from swwatch.model.loading import load
from swwatch.toy.checkpoint import make_checkpoint
from tests.helpers.feeds import logits_of, random_feeds, small
from tests.helpers.streams import random_stream


def test_qwen2_vl_runs_on_the_fast_path_too(tmp_path):
    sizes = {"hidden": 32, "layers": 2, "heads": 2, "kv_heads": 1, "vision_depth": 2, "vision_hidden": 32}
    folder = make_checkpoint(tmp_path / "model", family="qwen2_vl", seed=1, **sizes)
    loaded = load(folder, variant="group", device="cpu")
    quick, feeds = small(loaded.model), random_feeds("group", [(2, 3)] * 3, 9, Random(1).randint)
    torch.testing.assert_close(logits_of(quick, feeds), logits_of(loaded.model, feeds), atol=1e-5, rtol=1e-5)
    stream = random_stream(loaded, [(2, 3), (1, 1)])
    for pixels, grid in zip(stream.pixels, stream.grids, strict=True):
        assert torch.equal(quick.watch_video(pixels, grid), loaded.model.watch_video(pixels, grid))
