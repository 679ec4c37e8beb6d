"""One answer to "which picture is on display at time t": files of every kind, against FFmpeg's own pictures.

The numbers of the pictures are written down here. Where the ffmpeg command is installed its pictures are compared too,
and what live sources give; where it is not, the numbers stand for them.
"""

import math
import os
import random
import re
import resource
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from swwatch.data.live.frames import LiveFrames
from swwatch.data.live.sources import frames_of
from swwatch.data.video import VideoError, iter_steps, measure, measure_duration_s, read_clip, reader, source
from swwatch.data.video.av1_headers import Av1Headers
from swwatch.data.video.reader import VideoFile
from swwatch.errors import UserError
from tests.helpers.field_pictures import write_fields
from tests.helpers.live_servers import http_server
from tests.helpers.numbered_videos import RATE, matrix_of, number_of, numbers_in, picture, remux, write, write_constant

PLAIN = [0, 12, 25, 37, 50, 62, 75, 87]  # of 100 pictures or so, 25 a second
EIGHT = [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [(0, b, c, 0) for b in (1, -1) for c in (1, -1)]


def as_ffmpeg(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(times from the first picture, pictures) as the ffmpeg command shows them."""
    command = ["ffmpeg", "-nostdin", "-copyts", "-i", os.fsencode(path), "-map", "0:v", "-vf", "showinfo"]
    command += ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True)
    printed = done.stderr.decode(errors="replace")
    times = np.array([float(time) for time in re.findall(r"pts_time:\s*([-\d.]+)", printed)])
    width, height = map(int, re.findall(r"rawvideo.*?, (\d+)x(\d+)", printed)[-1])
    pictures = np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)
    return times[: len(pictures)] - times[0], pictures


def check(path: Path, numbers: list[int], *, live: bool = True) -> None:
    """A file, its spans, a live source and the ffmpeg command agree."""
    clip = read_clip(path)
    assert numbers_in(clip) == numbers
    last = numbers_in(read_clip(path, span=(1.0, None))) if clip.num_steps > 1 else numbers[2:]
    assert last == numbers[2:]
    if live:
        stream, frames = frames_of(path), LiveFrames()
        steps = [step for time_s, frame in stream for step in frames.push(time_s, frame)] + frames.flush(stream.end_s)
        assert np.array_equal(np.concatenate([step.frames for step in steps])[: len(numbers)], clip.frames)
    if shutil.which("ffmpeg"):
        times, pictures = as_ffmpeg(path)
        shown = np.searchsorted(times, np.arange(len(numbers)) / 2 + 1e-4, side="right") - 1
        shown = shown if len(times) > 1 else np.zeros_like(shown)
        assert np.array_equal(pictures[shown], clip.frames)


X264 = {"bf": "3", "g": "50"}
HEVC = {"x265-params": "log-level=error:crf=10"}
OPEN_GROUPS = "log-level=error:crf=10:open-gop=1:keyint=24:bframes=3:scenecut=0:b-adapt=0"
WRITTEN = {
    "b pictures.mp4": {"options": X264},
    "open groups.mkv": {"options": {"x264-params": "keyint=24:open-gop=1:bframes=3"}},
    "intra refresh.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=48:bframes=0"}},
    "transport.ts": {"options": X264},
    "program.mpg": {"codec": "mpeg2video", "options": {"q:v": "2", "bf": "2"}},
    "flash.flv": {"options": X264},
    "interlaced.mp4": {"options": {"flags": "+ilme+ildct", "x264-params": "tff=1"}},
    "interlaced.ts": {"codec": "mpeg2video", "options": {"flags": "+ilme+ildct"}},
    "h265.mp4": {"codec": "libx265", "options": HEVC},
    "h265 layers.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=error:temporal-layers=3"}},
    "deep open.mkv": {
        "codec": "libx265",
        "options": {"x265-params": "log-level=error:open-gop=1:keyint=24"},
        "pix_fmt": "yuv420p10le",
    },
    "deep 422.mp4": {"options": X264, "pix_fmt": "yuv422p10le"},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "444.mp4": {"pix_fmt": "yuv444p"},
    "hidden.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"auto-alt-ref": "1", "lag-in-frames": "25"}},
    "av1.mp4": {"codec": "libsvtav1", "options": {"preset": "12"}},
    "av1 grain.mkv": {"codec": "libsvtav1", "options": {"preset": "12", "svtav1-params": "film-grain=20:keyint=40"}},
    "av1 in order.mp4": {"codec": "libsvtav1", "options": {"preset": "12", "svtav1-params": "pred-struct=1"}},
    "no length.webm": {"codec": "libvpx", "format_options": {"live": "1"}},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "b pictures.avi": {"options": X264},
    "raw.h264": {"options": X264},
    "raw.hevc": {"codec": "libx265", "options": HEVC},
    "flash.swf": {"codec": "flv", "options": {"q:v": "2"}},
    "camera.mpjpeg": {"codec": "mjpeg", "container": "mpjpeg", "pix_fmt": "yuvj420p"},
    "broadcast.gxf": {"codec": "mpeg2video", "options": {"q:v": "2"}, "size": (576, 720)},
    "raw without its ending.mp4": {"codec": "mjpeg", "container": "mjpeg", "pix_fmt": "yuvj420p"},
    "moving.gif": {"codec": "gif", "pix_fmt": "gray"},
    "moving.apng": {"codec": "apng", "pix_fmt": "gray"},
    "moving.avif": {"codec": "libsvtav1", "options": {"preset": "12"}},
    "exchange.mxf": {"codec": "mpeg2video", "options": {"q:v": "2", "bf": "2"}},
    "tape.dv": {"codec": "dvvideo", "size": (576, 720)},
}


@pytest.mark.parametrize("name", WRITTEN)
def test_codecs_and_containers(tmp_path, name):
    check(write_constant(tmp_path / name, RATE, 105, **WRITTEN[name]), PLAIN)


@pytest.mark.parametrize("name", ["a.ts", "a.mp4", "a.avi"])
def test_a_packet_for_each_field(tmp_path, name):
    check(write_fields(tmp_path / name, 105), PLAIN)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_constant(tmp_path_factory.mktemp("plain") / "plain.mp4", RATE, 105, options={"bf": "0", "g": "40"})


def test_high_dynamic_range(tmp_path):
    options = {"x265-params": "log-level=error:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"}
    path = write_constant(tmp_path / "hdr.mp4", RATE, 60, codec="libx265", options=options, pix_fmt="yuv420p10le")
    check(path, [0, 12, 25, 37])


def test_what_an_edit_list_hides_is_not_shown(plain, tmp_path):
    """As `ffmpeg -ss 0.68 -i IN -c copy OUT` cuts: the pictures before it stay in the file."""

    def earlier(number, packet):
        packet.pts, packet.dts = packet.pts - cut, packet.dts - cut
        return True

    with av.open(str(plain)) as file:
        cut = int(17 / RATE / file.streams.video[0].time_base)
    path = remux(plain, tmp_path / "cut.mp4", earlier)
    check(path, [17, 29, 42, 54, 67, 79, 92, 104])
    assert measure_duration_s(path) == pytest.approx(88 / 25, abs=1e-3)
    assert numbers_in(read_clip(path, span=(1.5, 2.5))) == [54, 67]


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv", "late.ts", "late.wmv", "late.nut"])
def test_the_first_picture_is_time_zero(tmp_path, name):
    codec = "msmpeg4" if name.endswith("wmv") else "libx264"
    check(write(tmp_path / name, range(125, 230), 1 / RATE, codec=codec, options={"bf": "0"}), PLAIN)


@pytest.mark.parametrize("how", ["delay_moov+negative_cts_offsets", "frag_keyframe+empty_moov"])
def test_times_below_zero(tmp_path, how):
    below = {"avoid_negative_ts": "disabled", "use_editlist": "0"}
    times = range(-30, 75)
    check(write(tmp_path / "a.mp4", times, 1 / RATE, options=X264, movflags=how, format_options=below), PLAIN)


def test_a_file_that_begins_between_key_frames(plain, tmp_path):
    """The ffmpeg command shows it from its first key frame on; so do we, and a live source."""
    path = remux(plain, tmp_path / "a.mp4", lambda number, packet: number >= 20)
    check(path, [40, 52, 65, 77, 90, 102])
    assert measure(path)[0] == 6


@pytest.mark.parametrize(
    "codec, options", [("mpeg2video", {"q:v": "2", "bf": "2"}), ("libx265", HEVC | {"x265-params": OPEN_GROUPS})]
)
def test_a_file_that_begins_with_pictures_that_refer_to_what_was_cut_off(tmp_path, codec, options):
    """As a cut of open groups without encoding: its spans count from the first picture that can be decoded, too."""
    whole = write(tmp_path / "a.ts", range(100), 1 / RATE, codec=codec, options=options)
    with av.open(str(whole)) as file:
        packets = [packet for packet in file.demux(video=0) if packet.size]
    keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
    begin = keys[2]
    assert packets[begin + 1].pts < packets[begin].pts, "nothing refers to what is cut off"
    path = remux(whole, tmp_path / "cut.ts", lambda number, packet: number >= begin)
    first = sorted(packet.pts for packet in packets).index(packets[begin].pts)
    check(path, [first + 25 * half // 2 for half in range((100 - first) * 2 // 25 // 2 * 2)])


def test_who_calls_every_picture_a_key_frame_is_not_believed(tmp_path):
    path = write_constant(tmp_path / "a.mp4", RATE, 105, codec="mpeg4", options={"g": "40", "q:v": "2"})
    path.write_bytes(path.read_bytes().replace(b"stss", b"free"))
    check(path, PLAIN)


@pytest.mark.parametrize("name", ["a.mjpeg", "cut.webm"])
def test_a_live_source_shows_of_a_file_what_the_sampler_shows(tmp_path, name):
    if name == "a.mjpeg":  # without times of its own
        return check(write(tmp_path / name, range(100), 1 / RATE, codec="mjpeg", pix_fmt="yuvj420p"), PLAIN)
    options = {"deadline": "realtime", "cpu-used": "8", "g": "25"}
    whole = write(tmp_path / "a.webm", range(100), 1 / RATE, codec="libvpx-vp9", options=options)
    check(remux(whole, tmp_path / name, lambda number, packet: number >= 10), [25, 37, 50, 62, 75, 87])


@pytest.mark.parametrize("first, lasts_s, numbers", [(50, 9, [50, 62, 75, 87]), (10, 2.1, [10, 22, 35, 47])])
def test_an_edit_list_that_ends_before_its_media_or_behind_it(plain, tmp_path, first, lasts_s, numbers):
    with av.open(str(plain)) as file:
        media_time = int(first / RATE / file.streams.video[0].time_base)
    data = bytearray(plain.read_bytes())
    at = data.rindex(b"elst") + 12
    data[at : at + 8] = round(lasts_s * 1000).to_bytes(4, "big") + media_time.to_bytes(4, "big")
    (tmp_path / "a.mp4").write_bytes(data)
    check(tmp_path / "a.mp4", numbers)


def test_an_avi_file_written_to_a_pipe_tells_no_length(tmp_path):
    data = bytearray(write_constant(tmp_path / "a.avi", RATE, 105, codec="mpeg4").read_bytes())
    length = data.index(b"strh") + 40
    data[4:8], data[length : length + 4] = b"\xff" * 4, (1 << 30).to_bytes(4, "little")
    (tmp_path / "a.avi").write_bytes(data)
    check(tmp_path / "a.avi", PLAIN)


@pytest.mark.parametrize("name, codec", [("a.h264", "libx264"), ("a.hevc", "libx265")])
def test_raw_pictures_keep_a_rate_that_they_name(tmp_path, name, codec):
    path = write_constant(tmp_path / name, Fraction(10), 41, codec=codec, options=HEVC if "265" in codec else X264)
    check(path, list(range(0, 40, 5)))


def test_two_pictures_in_a_packet_and_a_blank_in_the_next(tmp_path):
    """As DivX and Xvid pack them, for the sake of players that take a picture a packet."""
    options = {"bf": "1", "b_strategy": "0", "sc_threshold": "1000000000", "g": "300", "q:v": "2"}
    plain, path = write_constant(tmp_path / "a.avi", RATE, 105, codec="mpeg4", options=options), tmp_path / "b.avi"
    with av.open(str(plain)) as old, av.open(str(path), "w") as new:
        source = old.streams.video[0]
        first, *rest = [bytes(packet) for packet in old.demux(source) if packet.size]
        packed, empty = [first], b"\0\0\1\xb6\x51\xcf"
        for later, between in zip(rest[::2], rest[1::2], strict=True):
            packed += [later + between, empty]
        target = new.add_stream_from_template(source)
        for number, data in enumerate(packed):
            packet = av.Packet(data)
            packet.stream, packet.time_base = target, 1 / RATE
            packet.pts = packet.dts = number
            packet.is_keyframe = not number
            new.mux(packet)
    signed = re.sub(rb"Lavc[\d.]+", lambda name: b"DivX503b" + b"1" * (len(name[0]) - 9) + b"p", path.read_bytes())
    path.write_bytes(signed)
    check(path, PLAIN)


@pytest.mark.parametrize("crop", ["crop_left=8", "crop_left=6:crop_right=10:crop_top=4"])
def test_a_crop_at_the_left_scales_nothing(plain, tmp_path, crop):
    path = tmp_path / "a.mp4"
    with av.open(str(plain)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        cut = BitStreamFilterContext(f"h264_metadata={crop}", old.streams.video[0], stream)
        for packet in old.demux(video=0):
            for changed in cut.filter(packet if packet.size else None):
                changed.stream = stream
                new.mux(changed)
    live = next(iter(frames_of(path)))[1]
    assert np.array_equal(read_clip(path).frames[0], live) and measure(path)[1:] == live.shape[:2]
    if shutil.which("ffmpeg"):
        assert np.array_equal(as_ffmpeg(path)[1][0], live)


def test_times_that_go_back_are_none_for_the_sampler(tmp_path):
    part = write(tmp_path / "a.ts", range(60), 1 / RATE, options={"bf": "0"}).read_bytes()
    (tmp_path / "twice.ts").write_bytes(part + part)  # which only a live source takes for one that begins again
    with pytest.raises(VideoError, match="no usable times"):
        read_clip(tmp_path / "twice.ts")
    assert len(list(frames_of(tmp_path / "twice.ts"))) == 120


def test_lost_pictures_are_damage(plain, tmp_path):
    path = remux(plain, tmp_path / "a.mp4", lambda number, packet: not 50 <= number < 60)
    with pytest.raises(VideoError, match="frames cannot be decoded: the file is damaged"):
        read_clip(path)


def test_pictures_passed_over_for_want_of_lost_ones_are_told(tmp_path):
    """H.265 goes on at the next key frame without an error."""
    options = {"x265-params": "log-level=error:keyint=40:bframes=2"}
    whole = write_constant(tmp_path / "whole.ts", RATE, 100, codec="libx265", options=options)
    path = remux(whole, tmp_path / "a.ts", lambda number, packet: not 10 <= number < 14)
    with pytest.raises(VideoError, match="of its 96 frames cannot be decoded: the file is damaged"):
        read_clip(path)
    with pytest.raises(UserError, match="of its frames cannot be decoded: the file is damaged"):
        list(frames_of(path))
    with http_server(path.read_bytes(), "endless") as server, frames_of(server.url) as stream:
        assert len(list(stream)) + stream.dropped + stream.damaged == 96 and stream.damaged >= 20


@pytest.mark.parametrize("matrix", EIGHT)
def test_turned_and_mirrored(tmp_path, matrix):
    path = matrix_of(write_constant(tmp_path / "a.mp4", RATE, 60), *matrix)
    (a, b, c, d), wanted = matrix, picture(25)
    wanted = wanted.transpose(1, 0, 2)[:: b or 1, :: c or 1] if b else wanted[::d, ::a]
    clip, part = read_clip(path), read_clip(path, span=(1.0, None))
    live = [frame for _, frame in frames_of(path)]
    for shown in (clip.frames[2], part.frames[0], live[25]):
        assert np.array_equal(shown > 128, wanted > 128)
    if shutil.which("ffmpeg"):
        assert np.array_equal(as_ffmpeg(path)[1][[0, 12, 25, 37]], clip.frames)


@pytest.mark.parametrize("degrees", [30, 91, 200, -45])
def test_turned_by_no_quarters(plain, tmp_path, degrees):
    """About the middle, with black where nothing was, as the ffmpeg command does."""
    path, angle = tmp_path / "a.mp4", math.radians(degrees)
    shutil.copyfile(plain, path)
    matrix_of(path, math.cos(angle), math.sin(angle), -math.sin(angle), math.cos(angle))
    clip = read_clip(path)
    assert clip.frames.shape[1:] == (48, 64, 3) and not clip.frames[:, 0, 0].any()
    assert np.array_equal(next(iter(frames_of(path)))[1], clip.frames[0])
    if shutil.which("ffmpeg"):
        assert np.array_equal(as_ffmpeg(path)[1][[0, 12, 25, 37, 50, 62, 75, 87]], clip.frames)


def test_turned_in_its_first_picture_alone(tmp_path):
    """As a message beside the picture may say; the file keeps the size of the first, as with the ffmpeg command."""
    whole, path = write_constant(tmp_path / "whole.mp4", RATE, 60, options={"bf": "0"}), tmp_path / "a.mp4"
    with av.open(str(whole)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        turn = BitStreamFilterContext(
            "h264_metadata=display_orientation=insert:rotate=90", old.streams.video[0], stream
        )
        for packet in old.demux(video=0):
            for changed in turn.filter(packet if packet.size else None):
                changed.stream = stream
                new.mux(changed)
    frames = read_clip(path).frames
    assert frames.shape == (4, 64, 48, 3) and number_of(frames[2]) == 25
    if shutil.which("ffmpeg"):
        assert np.array_equal(as_ffmpeg(path)[1][[0, 12, 25, 37]], frames)


@pytest.mark.parametrize("width", [2, 4, 6, 8, 12, 16, 24, 48, 72])
def test_narrow_pictures(tmp_path, width):
    size = (48, width)
    with av.open(str(tmp_path / "a.mkv"), "w") as file:
        stream = file.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, "bgr0"
        for number in range(50):
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), number, np.uint8), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    frames = read_clip(tmp_path / "a.mkv").frames
    assert frames.shape == (4, *size, 3) and [frame.max() for frame in frames] == [0, 12, 25, 37]


@pytest.mark.parametrize("name", ["a:b c%03d.mp4", "caf\udce9.mp4", "%d.mp4", "http:a.mp4", "-i.mp4", "a\nb.mp4"])
def test_names(plain, tmp_path, name):
    path = tmp_path / name
    shutil.copyfile(plain, path)
    assert numbers_in(read_clip(path)) == PLAIN and len(list(frames_of(path))) == 105


def test_a_title_that_is_no_utf8(plain, tmp_path):
    with av.open(str(plain)) as old, av.open(str(tmp_path / "a.mkv"), "w") as new:
        new.metadata["title"] = "cafeteria"
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    data = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(data.replace(b"cafeteria", b"caf\xe9teria"))
    check(tmp_path / "a.mkv", PLAIN)


def test_of_several_streams_the_default_or_the_largest_is_shown(tmp_path):
    for default in (None, 0):
        path = tmp_path / f"{default}.mkv"
        with av.open(str(path), "w") as file:
            streams = []
            for size in ((48, 64), (96, 128)):
                streams.append(file.add_stream("libx264", rate=25))
                streams[-1].height, streams[-1].width, streams[-1].pix_fmt = *size, "yuv420p"
                streams[-1].disposition = av.stream.Disposition.default if default == len(streams) - 1 else 0
            for number in range(60):
                for stream in streams:
                    shown = picture(number, (stream.height, stream.width))
                    file.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
            for stream in streams:
                file.mux(stream.encode())
        with av.open(str(path)) as file:
            marked = [bool(stream.disposition & av.stream.Disposition.default) for stream in file.streams.video]
        wanted = (48, 64) if marked == [True, False] else (96, 128)
        assert read_clip(path).frames.shape[1:3] == wanted
        assert next(iter(frames_of(path)))[1].shape[:2] == wanted


def test_a_size_that_changes_keeps_the_first_one(tmp_path):
    parts = []
    for name, size, first in (("a.ts", (48, 64), 0), ("b.ts", (96, 128), 50)):
        times = range(first, first + 50)
        parts.append(write(tmp_path / name, times, 1 / RATE, options={"bf": "0"}, size=size, first=first).read_bytes())
    (tmp_path / "c.ts").write_bytes(b"".join(parts))
    check(tmp_path / "c.ts", [0, 12, 25, 37, 50, 62, 75, 87], live=False)


def test_one_picture_and_240_a_second(tmp_path):
    assert numbers_in(read_clip(write_constant(tmp_path / "one.mp4", RATE, 1))) == [0, 0]
    check(write_constant(tmp_path / "fast.mp4", Fraction(240), 500), [0, 120, 240, 360])


def test_a_cover_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as file:
        stream = file.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuvj420p"
        stream.disposition = av.stream.Disposition.attached_pic
        file.mux(stream.encode(av.VideoFrame.from_ndarray(picture(3), format="rgb24")))
        file.mux(stream.encode())
    with av.open(str(tmp_path / "a.mkv")) as file:
        is_kept = bool(file.streams.video[0].disposition & av.stream.Disposition.attached_pic)
    if not is_kept:
        pytest.skip("this container does not keep the mark")
    with pytest.raises(VideoError, match="no video stream"):
        read_clip(tmp_path / "a.mkv")


@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.avi", "a.flv", "a.mpg", "a.mp4", "first.mp4", "a.webm"])
@pytest.mark.parametrize("share", [0.5, 0.85])
def test_zeros_in_the_tail_are_damage_in_every_container(tmp_path, name, share):
    options = {"codec": {"avi": "mpeg4", "mpg": "mpeg2video", "webm": "libvpx"}.get(name.partition(".")[2], "libx264")}
    if name == "a.mp4":
        options |= {"movflags": "frag_keyframe+empty_moov", "options": {"g": "24"}}
    if name == "first.mp4":
        options |= {"movflags": "faststart"}
    if name == "a.webm":
        options["format_options"] = {"live": "1"}
    path = write_constant(tmp_path / name, RATE, 150, **options)
    whole = read_clip(path).frames
    data = bytearray(path.read_bytes())
    start = int(len(data) * share)
    data[start:] = bytes(len(data) - start)
    path.write_bytes(data)
    if (name, share) == ("a.avi", 0.85):  # its index alone is lost
        assert np.array_equal(read_clip(path).frames, whole)
        return
    with pytest.raises(VideoError, match="damaged"):
        read_clip(path)
    with pytest.raises(UserError):
        list(frames_of(path))


def test_an_unknown_codec_and_one_without_decoder_say_what_to_do(plain, tmp_path, monkeypatch):
    data = plain.read_bytes().replace(b"avc1", b"zzz1").replace(b"avcC", b"zzzC")
    (tmp_path / "unknown.mp4").write_bytes(data)
    with pytest.raises(VideoError, match="codec is not known: it has no decoder here: convert it"):
        read_clip(tmp_path / "unknown.mp4")

    class Native:
        name, width, height = "av1", 64, 48

    class Stream:
        codec_context = Native

    assert "it is AV1, and it has no decoder here: convert it" in source.why_not(Stream, 10**6)


def test_what_cannot_be_shown_says_what_to_do(tmp_path):
    options = {"x264-params": "colormatrix=YCgCo"}
    colours = write_constant(tmp_path / "a.mp4", RATE, 10, options=options, pix_fmt="yuv444p")
    moving = tmp_path / "moving.webp"
    Image.new("RGB", (64, 48)).save(moving, save_all=True, append_images=[Image.new("RGB", (64, 48), "red")])
    for path, told in ((colours, "convert it .ffmpeg -i IN -vf zscale"), (moving, "make a GIF of it")):
        with pytest.raises(VideoError, match=told):
            read_clip(path)
        with pytest.raises(UserError, match=told):
            list(frames_of(path))


def test_large_pictures_are_refused_before_they_are_decoded(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(source, "MAX_PIXELS", 2000)
    with pytest.raises(VideoError, match="pictures of 64x48 are over the limit of 2000 pixels"):
        read_clip(plain)


def test_what_a_decoder_makes_no_room_for_is_told_by_its_limit(tmp_path, monkeypatch):
    path = write_constant(tmp_path / "a.mov", RATE, 3, codec="mjpeg", pix_fmt="yuvj420p", size=(1200, 1600))
    monkeypatch.setattr(source, "most_pixels", lambda max_pixels: {"max_pixels": "10000"})
    with pytest.raises(VideoError, match="cannot be decoded.*over the limit of 67108864 pixels"):
        read_clip(path)


def test_a_small_file_that_claims_much_costs_nothing(plain, tmp_path):
    data = bytearray(plain.read_bytes())
    sizes = data.index(b"stsz")
    data[sizes + 8 : sizes + 16] = (1).to_bytes(4, "big") + (60_000_000).to_bytes(4, "big")
    (tmp_path / "a.mp4").write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(VideoError, match="claims more pictures than it has bytes"):
        read_clip(tmp_path / "a.mp4")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


# ---- what is not decoded, and threads -------------------------------------------------------------------------------


def everything(path: Path) -> np.ndarray:
    """All pictures, none passed over, one thread."""
    file = VideoFile(path)
    spare = file.table.packets.spare
    spare[:] = False
    return np.stack(list(file.pictures(range(len(file.table.pts)), to_end=True)))


@pytest.mark.parametrize(
    "name",
    ["b pictures.mp4", "open groups.mkv", "h265.mp4", "h265 layers.mp4", "interlaced.mp4"]
    + ["av1.mp4", "av1 grain.mkv", "av1 in order.mp4"],
)
@pytest.mark.parametrize("threads", [1, 3])
def test_pictures_passed_over_change_no_other(tmp_path, monkeypatch, name, threads):
    path = write_constant(tmp_path / name, RATE, 105, **WRITTEN[name])
    whole = everything(path)
    monkeypatch.setattr(source, "free_threads", lambda: threads)
    file = VideoFile(path)
    assert file.table.packets.needed([0, 104]).sum() < 85
    rng = random.Random(0)
    for wanted in ([0, 12, 25, 37, 50, 62, 75, 87, 100], sorted(rng.sample(range(105), 7)), [104], [60, 61]):
        for to_end in (False, True):
            given = list(file.pictures(wanted, to_end))
            assert np.array_equal(np.stack(given), whole[wanted])


def test_av1_packets_that_may_be_damaged_or_lost_are_all_decoded(tmp_path):
    path = write_constant(tmp_path / "a.mp4", RATE, 60, **WRITTEN["av1.mp4"])
    times = [number for number in range(60) if number not in range(20, 24)]
    lost = write(tmp_path / "lost.mp4", times, 1 / RATE, rate=RATE, **WRITTEN["av1.mp4"])
    assert not VideoFile(lost).table.packets.spare.any()
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as file:
        place, size = [(packet.pos, packet.size) for packet in file.demux(video=0) if packet.size][30]
    data[place : place + size] = bytes(size)
    path.write_bytes(data)
    packets = VideoFile(path).table.packets
    assert packets.needs[30] is None and packets.needed([59])[:30].all()
    with pytest.raises(VideoError, match="damaged"):
        read_clip(path)


def test_pictures_in_parts_that_are_cut_are_damage(tmp_path):
    path = write_constant(tmp_path / "a.mpjpeg", RATE, 60, **WRITTEN["camera.mpjpeg"])
    data = path.read_bytes()
    for left in (len(data) - 40, data.index(b"--ffmpeg", len(data) // 2) - 40):
        path.write_bytes(data[:left])
        with pytest.raises(VideoError, match="breaks off"):
            read_clip(path)


@given(st.binary(max_size=80))
def test_of_an_av1_packet_that_cannot_be_understood_nothing_is_said(data):
    """What comes behind it refers to it, and with it to all that came before, up to the next key frame."""
    sequence, key = "0a0b0000000cc4ff6700be0010", "3202 1000"  # of SVT-AV1; only the head of the picture
    headers = Av1Headers(bytes.fromhex(sequence))
    assert headers.of(bytes.fromhex(key)) == (True, frozenset())
    is_spare, needs = headers.of(bytes([0x32, len(data)]) + data)
    assert needs is not None or not is_spare
    assert headers.of(bytes.fromhex("3202 8000")) in ((True, frozenset([0])), (True, frozenset([1])))  # shows one
    assert headers.of(b"\x32\x05\0") == (False, None)
    assert headers.of(bytes.fromhex("3202 8000")) == (True, frozenset([3]))


def test_where_a_picture_does_not_come_all_packets_are_decoded(tmp_path, monkeypatch):
    """As if a decoder kept a picture back for want of those that were passed over."""
    path = write_constant(tmp_path / "a.mp4", RATE, 60, options=X264)
    whole, file, decoded, calls = everything(path), VideoFile(path), reader.decoded, []

    def lossy(*of):
        calls.append(1)
        return (one for number, one in enumerate(decoded(*of)) if number != 3 or len(calls) > 1)

    monkeypatch.setattr(reader, "decoded", lossy)
    assert np.array_equal(np.stack(list(file.pictures([0, 12, 25]))), whole[[0, 12, 25]]) and len(calls) == 2


@pytest.mark.parametrize("seed", range(6))
def test_damaged_bytes_give_the_same_or_an_error(tmp_path, monkeypatch, seed):
    rng = random.Random(seed)
    path = write_constant(tmp_path / "a.mp4", RATE, 105, options=X264, movflags="faststart")
    data = bytearray(path.read_bytes())
    media = data.index(b"mdat") + 8
    for _ in range(3):
        data[rng.randrange(media, len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    answers = []
    for threads in (1, 1, 2):
        monkeypatch.setattr(source, "free_threads", lambda threads=threads: threads)
        try:
            answers.append(read_clip(path).frames)
        except VideoError as error:
            answers.append(str(error))
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


def test_threads_are_shared_out(monkeypatch):
    monkeypatch.setattr(source.os, "cpu_count", lambda: 16)
    assert source.free_threads() == source.MAX_THREADS
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert source.free_threads() == 2
    monkeypatch.setattr(source.multiprocessing, "parent_process", lambda: object())
    assert source.free_threads() == 1


def test_only_pictures_of_the_grid_are_converted(plain, monkeypatch):
    converted = []
    convert = reader.Pictures.of
    monkeypatch.setattr(reader.Pictures, "of", lambda *of: converted.append(1) or convert(*of))
    assert len(read_clip(plain).frames) == len(converted) == 8


MEMORY = """
import resource, sys
from swwatch.data.budget import BUDGETS
from swwatch.data.pixels import FrameEncoder
from swwatch.data.video import iter_steps
from transformers import Qwen2VLVideoProcessor

encoder = FrameEncoder(Qwen2VLVideoProcessor(), BUDGETS["declared"])
encoder.resize_steps(iter_steps(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
frames = encoder.resize_steps(iter_steps(sys.argv[2]))
print(len(frames), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_follows_the_models_pixels(plain, tmp_path):
    """30 s of 3840 x 2160 would be 1.5 GB of pictures."""
    path = write_constant(
        tmp_path / "a.mp4", Fraction(2), 60, size=(2160, 3840), options={"preset": "ultrafast", "crf": "30"}
    )
    command = [sys.executable, "-c", MEMORY, str(plain), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    num_frames, grown_kb = map(int, done.stdout.split())
    assert num_frames == 60 and grown_kb < 400_000


def test_steps_shrink_one_by_one_to_the_very_pixels_of_the_whole_clip(tmp_path, load_tiny):
    from swwatch.data.budget import BUDGETS
    from swwatch.data.pixels import FrameEncoder

    path = write_constant(tmp_path / "a.mp4", RATE, 105, size=(360, 640))
    for budget in BUDGETS.values():
        encoder = FrameEncoder(load_tiny("group").processor.video_processor, budget)
        frames = read_clip(path).frames
        whole = encoder.resize(frames, len(frames))
        assert np.array_equal(encoder.resize_steps(iter_steps(path)).numpy(), whole.numpy())
