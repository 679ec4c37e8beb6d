"""The fast path of the other families: no windows in their vision towers, and in Qwen3-VL norms and DeepStack."""

from random import Random

import pytest
import torch

from swwatch.model.loading import load
from swwatch.rules.patch import Patch
from swwatch.toy.checkpoint import make_checkpoint
from tests.helpers.feeds import logits_of, random_feeds, small
from tests.helpers.streams import random_stream


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_other_families_run_on_the_fast_path_too(tmp_path, family):
    sizes = {"hidden": 32, "layers": 2, "heads": 2, "kv_heads": 1, "vision_depth": 2, "vision_hidden": 32}
    folder = make_checkpoint(tmp_path / "model", family=family, seed=1, **sizes)
    loaded = load(folder, variant="group", device="cpu")
    quick, patches = small(loaded.model), loaded.markup.announced([Patch(2, 3)] * 3)
    feeds = random_feeds("group", patches, 9, Random(1).randint, num_deep=loaded.model.num_deep)
    torch.testing.assert_close(logits_of(quick, feeds), logits_of(loaded.model, feeds), atol=1e-5, rtol=1e-5)
    stream = random_stream(loaded, [(2, 3), (1, 1)])
    for pixels, grid in zip(stream.pixels, stream.grids, strict=True):
        assert torch.equal(quick.watch_video(pixels, grid), loaded.model.watch_video(pixels, grid))
