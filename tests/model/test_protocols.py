"""What sessions need of models and caches is had by all of them, and what one cannot do it says by a flag."""

import pytest

from swwatch.errors import UserError
from swwatch.model.cuda_graph_model import CudaGraphModel
from swwatch.model.loading import load
from swwatch.model.protocols import ForgetfulCache, SessionCache, StreamingModel
from swwatch.policies.keep import KEEP, Keep
from swwatch.rules.families import FAMILIES
from swwatch.toy.checkpoint import make_checkpoint

SMALL = {"hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1, "vision_depth": 1, "vision_hidden": 32}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_and_the_fast_path_have_all_that_sessions_need(tmp_path, family):
    plain = load(make_checkpoint(tmp_path, family=family, **SMALL), variant="group", device="cpu").model
    fast = CudaGraphModel(plain, 64, 16, seats=4)
    for model in (plain, fast):
        assert isinstance(model, StreamingModel) and isinstance(model.new_cache(), SessionCache)
    for moves in (True, False):
        cache = plain.new_cache(endless=True, moves=moves)
        assert not plain.static and isinstance(cache, ForgetfulCache) and cache.moves == moves
    assert fast.static and not fast.new_cache().moves and not isinstance(fast.new_cache(), ForgetfulCache)
    with pytest.raises(UserError, match="take the plain model"):
        fast.new_cache(endless=True)


def test_what_a_policy_parks_or_thins_follows_from_what_it_defines():
    for kind in KEEP.values():
        assert kind.parks == ("recall" in dir(kind) and kind.recall is not Keep.recall)
        assert kind.thins == (kind.thin is not Keep.thin) and kind.writes == (kind.write is not Keep.write)
        names = {option.name for option in kind.options()}
        assert kind.parks <= ("host_mb" in names) and kind.thins <= ("group_s" in names)
    assert [name for name, kind in KEEP.items() if kind.parks][:1] == ["rekv"] and KEEP["key_norm"].thins
