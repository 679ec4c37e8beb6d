"""What a layer holds, in one tensor with room: as if every token were put behind those before it by a copy."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.model.stores import LINE, Stores, slots_for
from swwatch.rules.visibility import SAID, SEES, THOUGHT, WATCHED

ROW = 2 * 1 * 3 * 4  # numbers of a token


def tokens(count: int, first: int = 0) -> torch.Tensor:
    """(2, 1, 3, count, 4) numbers that never come twice."""
    numbers = torch.arange(first * ROW, (first + count) * ROW).view(count, 2, 1, 3, 4)
    return numbers.movedim(0, -2).float()


CHANGES = st.one_of(
    st.tuples(st.just("append"), st.sampled_from(list(SEES)), st.integers(0, 70)),
    st.tuples(st.sampled_from(["keep", "cut", "drop"]), st.sampled_from(list(SEES)), st.integers(0, 70)),
    st.tuples(st.just("snapshot"), st.just(None), st.just(0)),
)


@given(st.lists(CHANGES, min_size=1, max_size=25))
@settings(max_examples=60)
def test_whatever_comes_goes_and_is_looked_at_the_parts_are_those_of_plain_copies(changes):
    stores, plain, snapshots, count = Stores(), {}, [], 0
    for what, stream, number in changes:
        if what == "snapshot":
            snapshots.append((stores.snapshot(), dict(plain)))
        elif what == "append":
            new, count = tokens(number, count), count + number
            stores.append(stream, new)
            plain[stream] = torch.cat([plain[stream], new], dim=-2) if stream in plain else new
        elif stream in plain and what == "drop":
            del stores[stream], plain[stream]
        elif stream in plain:
            index = torch.arange(plain[stream].shape[-2])
            index = index[:number] if what == "cut" else index[number % 3 :: 2]
            stores[stream] = stores[stream][..., : len(index), :] if what == "cut" else stores[stream][..., index, :]
            plain[stream] = plain[stream][..., index, :]
        assert stores.keys() == plain.keys()
        assert all(torch.equal(part, plain[key]) for key, part in stores.items())
        for streams in ((WATCHED,), (WATCHED, SAID), (WATCHED, THOUGHT), (WATCHED, SAID, THOUGHT)):
            if here := [plain[key] for key in streams if key in plain]:
                assert torch.equal(stores.read(streams), torch.cat(here, dim=-2))
    for then, parts in snapshots:
        assert then.keys() == parts.keys() and all(torch.equal(then[key], part) for key, part in parts.items())


@pytest.mark.parametrize("streams", [(WATCHED,), (WATCHED, SAID)])
def test_a_token_that_finds_room_moves_nothing_and_is_read_where_it_lies(streams):
    """Of a stream that lasts, memory is taken anew once an eighth more has come, and what is read is never a copy."""
    stores, places = Stores(), set()
    stores.append(WATCHED, tokens(1000))
    for number in range(1000):
        stores.append(streams[-1], tokens(1, 1000 + number))
        read = stores.read(streams)
        assert read.untyped_storage().data_ptr() == stores[WATCHED].untyped_storage().data_ptr()
        assert read.shape[-2] == 1001 + number
        places.add(read.data_ptr())
    assert len(places) <= 8
    (held,) = stores.held.values()
    assert 2000 * ROW * 4 <= held <= slots_for(2000) * ROW * 4 <= (2000 * 9 // 8 + LINE) * ROW * 4


def test_where_memory_fails_nothing_has_changed(monkeypatch):
    stores = Stores()
    for stream in (SAID, WATCHED, THOUGHT):
        stores.append(stream, tokens(5, 10 * stream))
    before = {key: part.clone() for key, part in stores.items()}

    def fails(*args):
        raise torch.OutOfMemoryError("no memory, says the test")

    for stream, count, name in ((SAID, 1, "clone"), (SAID, 100, "new_empty")):
        with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
            patch.setattr(torch.Tensor, name, fails)
            stores.append(stream, tokens(count, 50))
        assert all(torch.equal(part, before[key]) for key, part in stores.items())
    stores.append(SAID, tokens(1, 50))
    assert torch.equal(stores[SAID], torch.cat([before[SAID], tokens(1, 50)], dim=-2))


def test_what_was_fed_in_inference_mode_goes_on_without_it():
    stores = Stores()
    with torch.inference_mode():
        stores.append(WATCHED, tokens(2))
    with torch.no_grad():
        stores.append(WATCHED, tokens(2, 2))
        stores.append(WATCHED, tokens(2, 4))
    assert torch.equal(stores[WATCHED], tokens(6))
