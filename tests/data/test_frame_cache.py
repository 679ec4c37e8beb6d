"""Frames on disk: hits are the very frames, the bound holds, and nothing damaged or foreign is ever served."""

import contextlib
import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch

from swwatch.data import frame_cache
from swwatch.data.budget import BUDGETS
from swwatch.data.dataset import ClipDataset
from swwatch.data.frame_cache import PARTS, FrameCache, how_made
from swwatch.data.prompt import Prompts
from swwatch.errors import UserError
from tests.helpers.small_clips import clip_dataset, make_clips, write_video

HOW = {"max_frames": 60}


def video(folder, number: int = 0):
    path = folder / f"{number}.mp4"
    path.write_bytes(b"video %d" % number)
    return path


def frames(seed: int, size: int = 1000) -> torch.Tensor:
    return torch.randint(0, 256, (size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def never() -> torch.Tensor:
    pytest.fail("it was made again")


def entries(folder):
    return sorted(folder.rglob("*.frames"))


def num_bytes(folder) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != "lock")


def test_what_is_made_once_comes_back_the_same_in_any_process(tmp_path):
    path, made = video(tmp_path), frames(1).reshape(2, 5, 10, 10)
    assert torch.equal(FrameCache(tmp_path / "c", 1, HOW).get(path, lambda: made), made)
    again = FrameCache(tmp_path / "c", 1, HOW).get(path, never)
    assert torch.equal(again, made) and again.dtype == torch.uint8


def test_another_file_time_or_way_of_making_is_another_entry(tmp_path):
    path, cache = video(tmp_path), FrameCache(tmp_path / "c", 1, HOW)
    cache.get(path, lambda: frames(1))
    os.utime(path, (1, 1))
    assert torch.equal(cache.get(path, lambda: frames(2)), frames(2))
    path.write_bytes(b"longer than before")
    os.utime(path, (1, 1))
    assert torch.equal(cache.get(path, lambda: frames(3)), frames(3))
    other = FrameCache(tmp_path / "c", 1, {"max_frames": 30})
    assert torch.equal(other.get(path, lambda: frames(4)), frames(4))
    assert torch.equal(cache.get(path, never), frames(3))


def cut(entry, other):
    entry.write_bytes(entry.read_bytes()[:-1])


def longer(entry, other):
    entry.write_bytes(entry.read_bytes() + b"x")


def one_bit(entry, other):
    content = bytearray(entry.read_bytes())
    content[-5] ^= 1
    entry.write_bytes(content)


def of_another_clip(entry, other):
    entry.write_bytes(other.read_bytes())


def of_other_size(entry, other):
    header, _, body = entry.read_bytes().partition(b"\n")
    entry.write_bytes(json.dumps(json.loads(header) | {"shape": [10**12]}).encode() + b"\n" + body)


def no_entry(entry, other):
    entry.write_bytes(b"\xff\xfe" * 500)


def empty(entry, other):
    entry.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, longer, one_bit, of_another_clip, of_other_size, no_entry, empty])
def test_a_damaged_or_foreign_file_is_rebuilt_and_never_served(tmp_path, damage):
    first, second, cache = video(tmp_path, 1), video(tmp_path, 2), FrameCache(tmp_path / "c", 1, HOW)
    cache.get(first, lambda: frames(1))
    (entry,) = entries(tmp_path / "c")
    cache.get(second, lambda: frames(2))
    (other,) = set(entries(tmp_path / "c")) - {entry}
    damage(entry, other)
    made = []
    assert torch.equal(cache.get(first, lambda: made.append(1) or frames(1)), frames(1)) and made == [1]
    assert torch.equal(cache.get(first, never), frames(1)) and torch.equal(cache.get(second, never), frames(2))


def test_it_stays_within_its_bound_and_keeps_what_this_run_put_there_first(tmp_path):
    cache = FrameCache(tmp_path / "c", PARTS * 5000 / 1e9, HOW)
    videos = [video(tmp_path, i) for i in range(150)]
    for number, path in enumerate(videos):
        cache.get(path, lambda number=number: frames(number))
    assert PARTS * 2000 < num_bytes(tmp_path / "c") <= PARTS * 5000
    before = entries(tmp_path / "c")
    hits = []
    for number, path in enumerate(videos):
        made = []
        assert torch.equal(cache.get(path, lambda n=number, m=made: m.append(1) or frames(n)), frames(number))
        hits.append(not made)
    assert entries(tmp_path / "c") == before and sum(hits) == len(before), "an epoch must not push itself out"


def test_what_no_later_run_used_makes_room_the_longest_unused_first(tmp_path, monkeypatch):
    monkeypatch.setattr(
        FrameCache, "_file", lambda self, what: self.folder / "0" / f"{Path(what['path']).stem}.frames"
    )
    bound = PARTS * 4000 / 1e9  # three entries a part
    old = FrameCache(tmp_path / "c", bound, HOW)
    for number in range(3):
        old.get(video(tmp_path, number), lambda: frames(0))
        os.utime(entries(tmp_path / "c")[number], (1000 + number,) * 2)
    new = FrameCache(tmp_path / "c", bound, HOW)
    new.get(tmp_path / "0.mp4", never)  # the oldest is used, so it is the youngest now
    new.get(video(tmp_path, 3), lambda: frames(0))
    new.get(video(tmp_path, 4), lambda: frames(0))
    assert [path.stem for path in entries(tmp_path / "c")] == ["0", "3", "4"]


def test_what_a_killed_process_left_is_swept_away(tmp_path):
    cache = FrameCache(tmp_path / "c", 1, HOW)
    path = video(tmp_path)
    cache.get(path, lambda: frames(1))
    (entry,) = entries(tmp_path / "c")
    left = entry.with_name("0123.tmp")
    left.write_bytes(b"half")
    entry.unlink()
    cache.get(path, lambda: frames(1))
    assert not left.exists() and entries(tmp_path / "c") == [entry]


def test_a_full_disk_is_told_and_does_not_end_the_run(tmp_path, monkeypatch, capsys):
    cache = FrameCache(tmp_path / "c", 1, HOW)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(frame_cache.os, "replace", full)
    for number in range(3):
        assert torch.equal(cache.get(video(tmp_path, number), lambda: frames(5)), frames(5))
    assert capsys.readouterr().err.count("No space left") == 1


def test_a_bound_above_the_room_on_the_disk_is_refused(tmp_path):
    with pytest.raises(UserError, match="has room for .* lower it"):
        FrameCache(tmp_path / "c", 1e9, HOW).check_room()
    FrameCache(tmp_path / "c", 1e-3, HOW).check_room()


def fill(folder, cache: FrameCache, turn: int) -> None:
    for number in range(turn, turn + 40):
        path = folder / f"{number % 60}.mp4"
        assert torch.equal(cache.get(path, lambda n=number: frames(n % 60)), frames(number % 60))


def test_several_processes_share_it_within_the_bound(tmp_path):
    for number in range(60):
        video(tmp_path, number)
    bound = PARTS * 3 * 1400
    cache = FrameCache(tmp_path / "c", bound / 1e9, HOW)
    context, sizes = multiprocessing.get_context("fork"), []
    workers = [context.Process(target=fill, args=(tmp_path, cache, turn)) for turn in (0, 13, 29, 44)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        with contextlib.suppress(FileNotFoundError):  # removed between two looks
            sizes.append(num_bytes(tmp_path / "c"))
        time.sleep(0.005)
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4 and max(sizes) <= bound
    assert entries(tmp_path / "c") and not list((tmp_path / "c").rglob("*.tmp"))


@pytest.fixture
def make(load_tiny):
    def build(data, **options) -> ClipDataset:
        return clip_dataset(load_tiny("group"), data, "group", prompts=Prompts("s", ("q",), "u"), **options)

    return build


def test_a_sample_from_the_cache_is_the_decoded_one_bit_for_bit(make, tmp_path, monkeypatch):
    data = make_clips(tmp_path, 3)
    write_video(tmp_path / "videos" / "1.mp4", 3, seed=9, size=(140, 84))  # it is resized
    plain = make(data)
    cache = FrameCache(tmp_path / "c", 1, how_made(plain.encoder, 60))
    first = make(data, frame_cache=cache)
    missed = [first[0, i].sample for i in range(3)]
    monkeypatch.setattr("swwatch.data.dataset.iter_steps", lambda *a, **k: never())
    hit = [make(data, frame_cache=cache)[0, i].sample for i in range(3)]
    monkeypatch.undo()
    for ours, theirs, decoded in zip(hit, missed, (plain[0, i].sample for i in range(3)), strict=True):
        for name in ("pixel_values", "video_grid_thw", "input_ids"):
            assert torch.equal(getattr(ours, name), getattr(decoded, name))
            assert torch.equal(getattr(theirs, name), getattr(decoded, name))


def test_what_frames_depend_on_is_in_the_key(make, tmp_path, monkeypatch):
    encoder = make(make_clips(tmp_path, 1)).encoder
    ways = [how_made(encoder, 60), how_made(encoder, 30), how_made(encoder, 60, fps=4)]
    encoder.budget = BUDGETS["release"]
    ways.append(how_made(encoder, 60))
    monkeypatch.setattr(frame_cache, "version", lambda name: "0.0")
    ways.append(how_made(encoder, 60))
    monkeypatch.setattr(frame_cache.video, "__file__", __file__)
    ways.append(how_made(encoder, 60))
    assert len({json.dumps(way) for way in ways}) == 6
