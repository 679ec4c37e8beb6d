"""The 2 fps grid against an independent reading by PyAV, and what happens with files that are no good."""

import math
import os
import pickle
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.data.video import VideoError, iter_steps, read_clip, reader, source, steps_of
from swwatch.data.video.picture import Pictures
from swwatch.data.video.timetable import grid_indices
from swwatch.errors import UserError
from tests.helpers.numbered_videos import HEIGHT, WIDTH, number_of, numbers_in, write, write_constant

RATES = [Fraction(10), Fraction(24000, 1001), Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30)]
RATES += [Fraction(60)]


def numbers_on_display(path):
    """Frame numbers at 0, 0.5, ... s by PyAV, in exact arithmetic."""
    with av.open(str(path)) as file:
        shown = [
            (frame.pts * frame.time_base, number_of(frame.to_ndarray(format="rgb24")))
            for frame in file.decode(video=0)
        ]
    with av.open(str(path)) as file:
        end = max((p.pts + (p.duration or 0)) * p.time_base for p in file.demux(video=0) if p.pts is not None)
    first = shown[0][0]
    grid = [Fraction(j, 2) for j in range(max(1, math.ceil(2 * (end - first))))]
    return [next(number for time, number in reversed(shown) if time - first <= t) for t in grid]


@pytest.mark.parametrize("rate", RATES, ids=lambda rate: f"{float(rate):.3f}fps")
@pytest.mark.parametrize("seconds", [5.0, 6.7])
def test_each_grid_frame_is_the_one_on_display(tmp_path, rate, seconds):
    path = write_constant(tmp_path / "a.mp4", rate, round(seconds * rate))
    wanted = numbers_on_display(path)
    clip = read_clip(path)
    assert numbers_in(clip) == wanted[: len(wanted) // 2 * 2]
    assert len(set(numbers_in(clip))) == len(wanted) // 2 * 2 == 2 * round(seconds), "two different frames a second"
    assert clip.duration_s == pytest.approx(round(seconds * rate) / rate, abs=1e-4)


def test_ntsc_film_frame_that_starts_just_after_the_grid_time_is_not_shown_yet(tmp_path):
    """24000/1001 fps: frame 12 starts at 0.5005 s, so 0.5 s still shows frame 11; counted by index it would be 12."""
    assert numbers_in(read_clip(write_constant(tmp_path / "a.mp4", RATES[1], 48)))[:4] == [0, 11, 23, 35]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("b_frames", [False, True])
def test_variable_frame_rate(tmp_path, seed, b_frames):
    gaps_ms = np.random.default_rng(seed).choice([5, 33, 40, 250, 1700], size=30, p=[0.2, 0.3, 0.3, 0.15, 0.05])
    pts = np.concatenate([[0], np.cumsum(gaps_ms)])
    path = write(tmp_path / "a.mp4", pts, Fraction(1, 1000), options={} if b_frames else {"bf": "0"})
    wanted, ours = numbers_on_display(path), numbers_in(read_clip(path, max_frames=None))
    assert len(set(wanted)) > 2
    if b_frames:  # such a file does not tell how long its last frame stays, only when it comes
        wanted = wanted[: math.ceil(2 * pts[-1] / 1000)]
        assert len(wanted) - 1 <= len(ours) <= len(wanted) + 1
        wanted = wanted[: len(ours)] + [30] * (len(ours) - len(wanted))
    assert ours == wanted[: len(wanted) // 2 * 2]


@pytest.mark.parametrize(
    "name, options",
    {
        "short groups of pictures.mp4": {"options": {"g": "12"}},
        "open groups.mp4": {"options": {"x264-params": "keyint=24:open-gop=1:bframes=3"}},
        "fragmented.mp4": {"movflags": "frag_keyframe+empty_moov", "options": {"g": "25"}},
        "index first.mp4": {"movflags": "faststart"},
        "mpeg4.mp4": {"codec": "mpeg4"},
        "sound goes on.mp4": {"sound_s": 30},
        "a.mov": {},
        "matroska.mkv": {},
        "mpeg4.avi": {"codec": "mpeg4"},
        "vp9.webm": {"codec": "libvpx-vp9"},
        "transport.ts": {"container": "mpegts"},
    }.items(),
)
def test_containers_and_codecs_give_the_same_frames(tmp_path, name, options):
    path = write_constant(tmp_path / name, Fraction(25), 130, **options)
    clip = read_clip(path)
    assert numbers_in(clip) == [0, 12, 25, 37, 50, 62, 75, 87, 100, 112]
    assert clip.duration_s == pytest.approx(5.2, abs=1e-4)


def test_time_counts_from_the_first_frame(tmp_path):
    path = write(tmp_path / "late.mp4", range(70, 170), Fraction(1, 25))
    assert numbers_in(read_clip(path)) == [0, 12, 25, 37, 50, 62, 75, 87]


@pytest.mark.parametrize("num_frames, num_steps", [(1, 1), (2, 1), (5, 1), (6, 1), (10, 1), (15, 1), (16, 2), (20, 2)])
def test_a_lone_frame_makes_a_pair_and_an_odd_one_is_left_out(tmp_path, num_frames, num_steps):
    clip = read_clip(write_constant(tmp_path / "a.mp4", Fraction(10), num_frames))
    assert clip.num_steps == num_steps and clip.frames.shape == (2 * num_steps, HEIGHT, WIDTH, 3)
    assert numbers_in(clip) == ([0, 0] if num_frames <= 5 else [0, 5, 10, 15][: 2 * num_steps])


def test_steps_are_the_clip_second_by_second(tmp_path):
    path = write_constant(tmp_path / "a.mp4", Fraction(25), 130)
    clip, steps = read_clip(path), list(iter_steps(path))
    assert np.array_equal(np.concatenate([step.frames for step in steps]), clip.frames)
    assert [(s.step, s.arrival_s, s.last, s.num_frames) for s in steps] == [(i, i + 0.5, i == 4, 10) for i in range(5)]
    for ours, theirs in zip(steps_of(clip), steps, strict=True):
        assert np.array_equal(ours.frames, theirs.frames)
        assert (ours.step, ours.arrival_s, ours.last, ours.num_frames) == (
            *(theirs.step, theirs.arrival_s, theirs.last, theirs.num_frames),
        )


def test_a_step_is_decoded_when_it_is_asked_for(tmp_path, monkeypatch):
    path = write_constant(tmp_path / "a.mp4", Fraction(10), 60, options={"bf": "0"})
    converted, given = [], []
    convert = Pictures.of
    monkeypatch.setattr(Pictures, "of", lambda *of: converted.append(1) or convert(*of))
    chosen = reader._chosen
    monkeypatch.setattr(reader, "_chosen", lambda *of: (given.append(1) or one for one in chosen(*of)))
    steps = iter_steps(path)
    assert not given
    next(steps)
    assert len(converted) == 2 and 6 <= len(given) <= 6 + source.MAX_THREADS  # pictures 0..5
    next(steps)
    assert len(converted) == 4 and 16 <= len(given) <= 16 + source.MAX_THREADS


def test_a_long_video_is_an_error_unless_cut_on_purpose(tmp_path):
    path = write_constant(tmp_path / "a.mp4", Fraction(10), 75)  # 15 grid frames, 7 steps
    assert read_clip(path, max_frames=14).num_steps == 7
    for call in (read_clip, iter_steps):
        with pytest.raises(VideoError, match="lasts 7.5 s, that is 14 frames.* the limit is 12"):
            call(path, max_frames=12)
    assert numbers_in(read_clip(path, max_frames=5, on_long="truncate")) == [0, 5, 10, 15]
    assert read_clip(path, max_frames=None).num_steps == 7
    with pytest.raises(UserError, match="one step needs 2"):
        read_clip(path, max_frames=1)


def test_the_name_of_a_file_does_not_matter(tmp_path):
    folder = tmp_path / "Видео 影片"
    folder.mkdir()
    assert read_clip(write_constant(folder / "café ☕.mp4", Fraction(10), 20)).num_steps == 2
    (folder / "café ☕.mp4").rename(folder / "clip.txt")
    assert read_clip(folder / "clip.txt").num_steps == 2
    assert read_clip(str(folder / "clip.txt")).num_steps == 2


# ---- files that are no good -----------------------------------------------------------------------------------------


def damage(path, target, first_packet):
    """Overwrite the packets from `first_packet` on with zeros."""
    with av.open(str(path)) as file:
        packets = [(packet.pos, packet.size) for packet in file.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for start, size in packets[first_packet:]:
        data[start : start + size] = bytes(size)
    target.write_bytes(data)


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory):
    """name -> what the error must say; all in one folder."""
    folder = tmp_path_factory.mktemp("bad")
    rate, texts = Fraction(25), {}

    def cut(name, share, **options):
        data = write_constant(folder / ("whole_" + name), rate, 100, **options).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * share)])
        texts[name] = "cut short"

    for percent in (40, 70, 90, 99):
        cut(f"index_first_{percent}.mp4", percent / 100, movflags="faststart")
        cut(f"index_last_{percent}.mp4", percent / 100)
    cut("matroska.mkv", 0.7)
    cut("mpeg4.avi", 0.7, codec="mpeg4")
    whole = folder / "whole_index_first_40.mp4"
    for name, first in (("all.mp4", 0), ("half.mp4", 50), ("last.mp4", 99)):
        damage(whole, folder / name, first)
        texts[name] = "damaged"
    (folder / "header.mp4").write_bytes(whole.read_bytes()[:32])  # file type, and nothing after it
    texts["header.mp4"] = "cannot be opened"
    (folder / "zero.mp4").touch()
    texts["zero.mp4"] = "empty"
    (folder / "one_byte.mp4").write_bytes(b"\0")
    (folder / "text.mp4").write_text("no video\n" * 50)
    (folder / "text.txt").write_text("no video\n" * 50)  # FFmpeg would play it as a terminal session
    texts |= dict.fromkeys(("one_byte.mp4", "text.mp4", "text.txt"), "damaged, incomplete or no video")
    write(folder / "sound.mp4", [], None, sound_s=5)
    texts["sound.mp4"] = "no video stream"
    part = write(folder / "part.ts", range(10), 1 / rate, options={"bf": "0"}).read_bytes()
    (folder / "twice.ts").write_bytes(part + part)
    texts["twice.ts"] = "no usable times"
    (folder / "folder.mp4").mkdir()
    texts["folder.mp4"] = "a folder"
    os.mkfifo(folder / "pipe.mp4")
    texts["pipe.mp4"] = "no regular file"
    texts["missing.mp4"] = "no such file"
    return folder, texts


def test_every_bad_file_is_an_error_that_says_why(bad_files):
    folder, texts = bad_files
    wrong = {}
    for name, text in texts.items():
        try:
            wrong[name] = f"read: {len(read_clip(folder / name).frames)} frames"
        except VideoError as error:
            if text not in str(error) or str(folder / name) not in str(error) or error.path != folder / name:
                wrong[name] = f"{text!r} is not in {error}"
    assert not wrong


def test_damage_anywhere_is_an_error_every_time(bad_files):
    """Threads decode ahead: whether they had met the damage yet must not decide."""
    for _ in range(8):
        with pytest.raises(VideoError, match="damaged"):
            read_clip(bad_files[0] / "last.mp4")


def test_bad_files_end_quickly_and_quietly(bad_files):
    """In a process of its own, so that a hang or a crash of the decoder shows."""
    program = (
        "import sys; from swwatch.data.video import *\n"
        "for path in sys.argv[1:]:\n"
        "    try: read_clip(path)\n"
        "    except VideoError: print('error')\n"
    )
    folder, texts = bad_files
    paths = [str(folder / name) for name in texts]
    done = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.split() == ["error"] * len(texts)
    assert not done.stderr


def test_an_error_of_opening_comes_before_the_first_step(tmp_path):
    with pytest.raises(VideoError):
        iter_steps(tmp_path / "missing.mp4")


@pytest.mark.parametrize("name, codec", [("a.mp4", "libx264"), ("b.mkv", "libx264"), ("c.avi", "mpeg4")])
def test_decord_is_a_choice_with_the_same_answer(tmp_path, name, codec):
    path = write_constant(tmp_path / name, RATES[1], 120, codec=codec)
    ours, theirs = read_clip(path), read_clip(path, reader="decord")
    assert np.array_equal(ours.frames, theirs.frames) and theirs.duration_s == pytest.approx(ours.duration_s, abs=1e-4)
    with pytest.raises(UserError, match="no reader 'opencv': choose pyav or decord"):
        read_clip(path, reader="opencv")
    (tmp_path / "cut.mp4").write_bytes(b"ftypftyp")
    with pytest.raises(VideoError, match="decord cannot open it"):
        read_clip(tmp_path / "cut.mp4", reader="decord")


def test_decord_is_not_imported_unless_chosen(tmp_path):
    path = write_constant(tmp_path / "a.mp4", Fraction(10), 20)
    program = (
        "import sys; from swwatch.data.video import *; read_clip(sys.argv[1]);\nassert 'decord' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)


def test_a_users_own_retry_limit_is_kept(tmp_path, monkeypatch):
    path = write_constant(tmp_path / "a.mp4", Fraction(10), 20)
    monkeypatch.setenv("DECORD_EOF_RETRY_MAX", "4096")
    read_clip(path, reader="decord")
    assert os.environ["DECORD_EOF_RETRY_MAX"] == "4096"
    monkeypatch.delenv("DECORD_EOF_RETRY_MAX")
    read_clip(path, reader="decord")
    assert int(os.environ["DECORD_EOF_RETRY_MAX"]) > 10240


def test_the_error_travels_between_processes():
    error = pickle.loads(pickle.dumps(VideoError("a/b.mp4", "it is empty")))
    assert isinstance(error, UserError) and error.reason == "it is empty"
    assert str(error) == "cannot use the video a/b.mp4: it is empty"


@settings(max_examples=200)
@given(st.lists(st.integers(0, 3000), max_size=40), st.integers(0, 1500))
def test_grid_agrees_with_its_definition(gaps_ms, last_ms):
    starts_ms = np.concatenate([[0], np.cumsum(gaps_ms, dtype=int)])
    end_ms = int(starts_ms[-1]) + last_ms
    wanted = [max(i for i, s in enumerate(starts_ms) if s <= t) for t in range(0, max(1, end_ms), 500)]
    assert grid_indices(starts_ms / 1000, end_ms / 1000).tolist() == wanted
