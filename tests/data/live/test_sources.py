"""Frames of files, HTTP and RTSP over loopback, cameras' arguments, and the addresses that are refused."""

import gc
import io
import socket
import sys
import threading
import time
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from swwatch.data.live import addresses as live_addresses
from swwatch.data.live import reader as live_reader
from swwatch.data.live.addresses import locate
from swwatch.data.live.buffer import CAPACITY
from swwatch.data.live.frames import LiveFrames
from swwatch.data.live.sources import check_url, frames_of
from swwatch.data.video import iter_steps
from swwatch.errors import UserError
from tests.helpers.live_servers import http_server, rtsp_server, write

PATIENCE_S = 20
QUICK = {"open_timeout_s": 5, "read_timeout_s": 1, "backoff_s": 0.01}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write(tmp_path_factory.mktemp("clips") / "clip.mp4", range(100), Fraction(1, 25))


@pytest.fixture(scope="module")
def pictures(clip):
    with av.open(str(clip)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def times_of(frames):
    return [time_s for time_s, _ in frames]


def wait_for(condition):
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "it never came to that"
        time.sleep(0.005)


def reading_threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith("frames of")}


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, rate", [("a.mp4", Fraction(30000, 1001)), ("b.mkv", Fraction(10)), ("c.mp4", Fraction(25))]
)
def test_a_file_gives_the_steps_of_the_sampler(tmp_path, name, rate):
    path = write(tmp_path / name, range(round(4.3 * rate)), 1 / rate, rate=rate, size=(50, 70))
    live, stream = LiveFrames(), frames_of(path)
    steps = [step for time_s, frame in stream for step in live.push(time_s, frame)] + live.flush(stream.end_s)
    theirs = list(iter_steps(path))
    assert [step.arrival_s for step in steps] == [step.arrival_s for step in theirs] and len(steps) == 4
    for our, their in zip(steps, theirs, strict=True):
        assert np.array_equal(our.frames, their.frames)
    assert stream.is_live is False and stream.end_s == pytest.approx(round(4.3 * rate) / rate, abs=2e-3)


def test_a_slow_consumer_loses_no_frame_of_a_file_and_few_are_kept(clip, pictures):
    stream = frames_of(clip)
    buffer = stream._reader.buffer
    frames = []
    for number, (time_s, frame) in enumerate(stream):
        if number % 30 == 0:
            wait_for(lambda: len(buffer._frames) == CAPACITY or len(frames) + CAPACITY >= len(pictures))
        assert len(buffer._frames) <= CAPACITY
        frames.append((time_s, frame))
    assert times_of(frames) == pytest.approx([i / 25 for i in range(100)]) and stream.dropped == 0
    assert all(np.array_equal(frame, picture) for (_, frame), picture in zip(frames, pictures, strict=True))


def test_a_file_at_its_own_pace_waits_for_each_frame(clip, monkeypatch):
    """The pauses asked for, in place of the pauses made."""
    until = []
    clock = lambda: 1000.0 + (until[-1] if until else 0.0)  # noqa: E731
    monkeypatch.setattr(live_reader.time, "monotonic", clock)
    monkeypatch.setattr(live_reader.Buffer, "is_stopped_within", lambda _, pause: until.append(clock() - 1000 + pause))
    assert len(list(frames_of(clip, realtime=True))) == 100
    assert until[-1] == pytest.approx(99 / 25) and until == sorted(until)


def motion_jpeg(path, *sizes: tuple[int, int]):
    """Frames of these (width, height); the container tells of the first."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mjpeg", rate=2)
        stream.width, stream.height, stream.pix_fmt = *sizes[0], "yuvj420p"
        file.start_encoding()
        for number, size in enumerate(sizes):
            jpeg = io.BytesIO()
            Image.new("RGB", size).save(jpeg, "JPEG")
            packet = av.Packet(jpeg.getvalue())
            packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 2), number, number
            file.mux(packet)
    return path


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ([(600, 400)], "600x400 are over the limit of 200000 pixels"),
        ([(64, 48), (600, 400)], "600x400 are over the limit of 200000 pixels"),
        ([(64, 48), (4000, 3000)], "cannot be decoded"),  # nor does the decoder make room for it
    ],
)
def test_frames_over_a_limit_of_pixels_are_refused(tmp_path, sizes, told):
    """A few kilobytes may stand for gigabytes of picture."""
    path = motion_jpeg(tmp_path / "bomb.mp4", *sizes)
    assert len(list(frames_of(path, max_pixels=4000 * 3000))) == len(sizes)
    with pytest.raises(UserError, match=told):
        list(frames_of(path, max_pixels=200_000))


def test_a_turned_video_stands_upright_as_in_the_sampler(tmp_path):
    path = write(tmp_path / "phone.mp4", range(30), Fraction(1, 10), size=(64, 48))
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44  # the matrix: 90 degrees clockwise
    turn = [0, 1 << 16, 0, -(1 << 16) & 0xFFFFFFFF, 0, 0, 64 << 16, 0, 1 << 30]
    data[at : at + 36] = b"".join(number.to_bytes(4, "big") for number in turn)
    path.write_bytes(data)
    first = next(iter_steps(path)).frames[0]
    ours = next(iter(frames_of(path)))[1]
    assert ours.shape == first.shape == (48, 64, 3) and np.array_equal(ours, first)


@pytest.mark.parametrize("what", ["blocked reader", "unread stream"])
def test_stopping_from_another_thread_ends_the_loop_and_the_reader(clip, what):
    before = reading_threads()
    stream = frames_of(clip, realtime=what == "unread stream")
    if what == "blocked reader":
        next(stream)
    threading.Timer(0.05, stream.stop).start()
    wait_for(lambda: stream._reader.buffer._stopped)
    assert list(stream) == []
    wait_for(lambda: reading_threads() <= before)


def test_stopping_wakes_a_consumer_that_waits():
    with rtsp_server(9, stalls=True) as server, frames_of(server.url, read_timeout_s=600) as stream:
        next(stream)
        threading.Timer(0.1, stream.stop).start()
        assert len(list(stream)) < 9  # it ends, though the server is silent and has time


def test_a_stream_that_nobody_holds_reads_no_further(clip):
    before = reading_threads()
    next(frames_of(clip))
    gc.collect()
    wait_for(lambda: reading_threads() <= before)


def test_files_that_are_no_good_say_why(tmp_path, clip):
    (tmp_path / "text.mp4").write_text("no video\n" * 50)
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:40000])
    write(tmp_path / "whole.mkv", range(100), Fraction(1, 25))
    (tmp_path / "cut.mkv").write_bytes((tmp_path / "whole.mkv").read_bytes()[:40000])
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{clip}\n#EXT-X-ENDLIST\n")
    (tmp_path / "script.mp4").write_text(f"ffconcat version 1.0\nfile '{clip}'\n")
    wrong = {}
    words = {"text.mp4": "cannot be read", "cut.mp4": "breaks off", "cut.mkv": "breaks off"}
    words |= {"list.m3u8": "cannot be read", "script.mp4": "cannot be read"}
    for name, text in words.items():
        try:
            wrong[name] = f"read: {len(list(frames_of(tmp_path / name)))} frames"
        except UserError as error:
            if text not in str(error) or name not in str(error):
                wrong[name] = str(error)
    assert not wrong
    for source, text in {
        "missing.mp4": "does not exist",
        str(tmp_path): "is a folder",
        "concat:a|b": "does not",
    }.items():
        with pytest.raises(UserError, match=text):
            frames_of(source)


# ---- HTTP -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["whole", "redirect", "endless", "closed"])
def test_a_clip_over_http_gives_the_frames_of_the_file(tmp_path, how):
    path = write(tmp_path / "b.mp4", range(60), Fraction(1, 25), options={"bf": "3"})  # the decoder holds some back
    with http_server(path.read_bytes(), how) as server:
        stream = frames_of(server.url, **QUICK)
        ours, theirs = list(stream), list(frames_of(path))
    assert times_of(ours) == times_of(theirs) == pytest.approx([i / 25 for i in range(60)])
    assert all(np.array_equal(our, their) for (_, our), (_, their) in zip(ours, theirs, strict=True))
    assert stream.reconnects == stream.dropped == 0 and stream.end_s == pytest.approx(60 / 25)


@pytest.mark.parametrize("plan", [["half", "half", "whole"], ["stall", "whole"], ["half", 404, 503, "whole"]], ids=str)
def test_a_recording_goes_on_where_the_connection_was_lost(clip, pictures, plan):
    told = []
    with http_server(clip.read_bytes(), *plan) as server:
        stream = frames_of(server.url, on_reconnect=told.append, **QUICK)
        frames = list(stream)
    assert times_of(frames) == pytest.approx([i / 25 for i in range(100)])
    assert all(np.array_equal(frame, picture) for (_, frame), picture in zip(frames, pictures, strict=True))
    assert stream.reconnects == len(told) == len(plan) - 1
    assert [(one.attempt, one.attempts) for one in told] == [(i + 1, 5) for i in range(len(told))]
    assert [one.wait_s for one in told] == [0.01 * 2**i for i in range(len(told))] and all(one.reason for one in told)


def test_a_connection_that_stays_lost_is_an_error_after_the_frames_before_it(clip):
    with http_server(clip.read_bytes(), "half", 404) as server:
        stream, frames = frames_of(server.url, reconnects=2, **QUICK), []
        with pytest.raises(UserError, match=r"clip.mp4 was lost 1\.\d s after.* 2 attempts") as caught:
            for frame in stream:
                frames.append(frame)
        assert "404" in str(caught.value) and len(server.asked) == 3
    assert 40 < len(frames) < 60 and next(stream, "over") == "over"


@pytest.mark.parametrize(
    "status, words", [(404, "404.* check"), (401, "user and a password"), (500, "Server returned 5")]
)
def test_an_address_that_cannot_be_opened_is_an_error_at_once(status, words):
    with http_server(b"", status) as server:
        with pytest.raises(UserError, match=words):
            next(frames_of(server.url, **QUICK))
        assert len(server.asked) == 1 or status == 401


def test_a_server_that_says_nothing_or_is_not_there(clip):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(UserError, match="no answer within 0.3 s"):
            next(frames_of(url, open_timeout_s=0.3))
    with pytest.raises(UserError, match="nothing answers there"):
        next(frames_of(url))
    with http_server(b"<html>no video</html>" * 100, "whole") as server:
        with pytest.raises(UserError, match="cannot be read as video"):
            next(frames_of(server.url, **QUICK))


def test_an_address_without_length_is_live_and_its_old_frames_go(tmp_path):
    path = write(tmp_path / "a.ts", range(100), Fraction(1, 25))
    with http_server(path.read_bytes(), "endless") as server:
        stream = frames_of(server.url, **QUICK)
        wait_for(lambda: stream.is_live and stream.dropped >= 100 - CAPACITY)
        times_s = times_of(stream)  # of the newest frames
    assert times_s == pytest.approx([(100 - CAPACITY + i) / 25 for i in range(CAPACITY)]) and stream.reconnects == 0


def test_a_live_address_that_closes_the_connection_is_opened_again(tmp_path):
    path = write(tmp_path / "a.ts", range(100), Fraction(1, 25))
    with http_server(path.read_bytes(), "closed", "endless") as server:
        stream = frames_of(server.url, **QUICK)
        times_s = times_of(stream)
    assert times_s == sorted(times_s) and times_s[-1] > 2 * 99 / 25  # on in stream time
    assert stream.reconnects == 1 and len(times_s) + stream.dropped == 200


def test_a_playlist_gives_the_frames_of_its_parts_and_the_grid_joins_them(tmp_path):
    part = write(tmp_path / "a.ts", range(75), Fraction(1, 25)).read_bytes()
    with http_server(part, "whole") as server:
        url = server.url.replace("mp4", "ts")
        parts = f"#EXTINF:3,\n{url}?1\n#EXT-X-DISCONTINUITY\n#EXTINF:3,\n{url}?2\n#EXT-X-ENDLIST\n"
        with http_server(f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n{parts}".encode(), "whole") as lists:
            stream = frames_of(lists.url.replace("mp4", "m3u8"), **QUICK)
            frames = list(stream)
    assert times_of(frames) == pytest.approx([i / 25 for i in range(75)] * 2)
    assert stream.is_live is False and stream.reconnects == 0
    live = LiveFrames()
    steps = [step for time_s, frame in frames for step in live.push(time_s, frame)] + live.flush(stream.end_s)
    assert live.counts.restarts == 1 and [step.arrival_s for step in steps] == [i + 0.5 for i in range(6)]


def test_strangers_addresses_are_redirected_by_us_alone_and_name_no_others(clip, monkeypatch):
    """As for a server that opens addresses for its users; loopback stands for a public host."""
    monkeypatch.setattr(live_addresses, "_is_public", lambda address: True)
    with http_server(clip.read_bytes(), "whole") as server:
        assert len(list(frames_of(server.url, allow_private=False, **QUICK))) == 100
    with http_server(clip.read_bytes(), "redirect") as server:
        assert len(list(frames_of(server.url, allow_private=False, **QUICK))) == 100
        assert server.asked[:2] == ["/clip.mp4", "/elsewhere.mp4"]
    with http_server(clip.read_bytes(), "whole") as inner:
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{inner.url}\n#EXT-X-ENDLIST\n".encode()
        with http_server(playlist, "whole") as server:
            with pytest.raises(UserError, match="cannot be read"):
                next(frames_of(server.url.replace("mp4", "m3u8"), allow_private=False, **QUICK))
        assert inner.asked == []


# ---- RTSP -----------------------------------------------------------------------------------------------------------


def test_rtsp_is_live_and_goes_on_in_time_after_the_connection_is_lost():
    told = []
    with rtsp_server(20, rate=10) as server:
        stream = frames_of(server.url, reconnects=1, on_reconnect=told.append, **QUICK)
        times_s = []
        with pytest.raises(UserError, match="was lost") as caught:
            for time_s, frame in stream:
                assert frame.shape == (48, 64, 3)
                times_s.append(time_s)
        assert server.asked.count("PLAY") == 2
    assert stream.is_live and stream.reconnects == 1 and [one.reason for one in told] == ["it ended"]
    assert times_s == sorted(times_s) and len(times_s) + stream.dropped == 40
    assert 3.5 < times_s[-1] < 10  # twice 1.9 s and what the clock saw between them
    assert "secret" not in str(caught.value)


def test_rtsp_that_falls_silent_is_opened_again():
    told = []
    with rtsp_server(10, stalls=True) as server:
        with frames_of(server.url, on_reconnect=told.append, **QUICK | {"read_timeout_s": 0.4}) as stream:
            wait_for(lambda: stream.reconnects >= 1)
    assert told[0].reason == "no answer within 0.4 s"


def test_rtsp_is_opened_over_tcp_unless_told():
    where = locate("rtsp://user:secret@example.org/live")
    assert (where.kind, where.shown, where.format) == ("rtsp", "rtsp://example.org/live", "rtsp")
    assert where.options["rtsp_transport"] == "tcp"
    assert locate("rtsps://example.org/live", rtsp_transport="udp").options["rtsp_transport"] == "udp"
    with pytest.raises(UserError, match="choose tcp or udp"):
        locate("rtsp://example.org/live", rtsp_transport="http")


# ---- cameras --------------------------------------------------------------------------------------------------------


def test_cameras_are_named_as_each_system_has_them(monkeypatch):
    camera = live_addresses._camera
    assert (camera("0", "linux").address, camera("0", "linux").format) == ("/dev/video0", "v4l2")
    assert camera("/dev/video2", "linux").address == "/dev/video2"
    assert (camera("1", "darwin").address, camera("1", "darwin").format) == ("1", "avfoundation")
    device = av.device.DeviceInfo
    found = [device("mic", "Microphone", False, ["audio"]), device("cam", "Integrated Camera", True, ["video"])]
    monkeypatch.setattr(av.device, "enumerate_input_devices", lambda name: found)
    assert (camera("0", "win32").address, camera("0", "win32").format) == ("video=cam", "dshow")
    assert camera("USB Camera", "win32").address == "video=USB Camera"
    for name, platform, words in [
        ("1", "win32", "there are 1 cameras"),
        ("", "linux", "camera:0 is the first"),
        ("../etc/passwd", "linux", "its device"),
        ("/dev/../etc/passwd", "linux", "its device"),
        ("0", "aix", "RTSP or HTTP"),
    ]:
        with pytest.raises(UserError, match=words):
            camera(name, platform)


@pytest.mark.skipif(sys.platform != "linux", reason="the path is Linux's")
def test_a_camera_that_is_not_there_says_what_to_check():
    with pytest.raises(UserError, match="camera:/dev/video987: the camera cannot be used .*plugged in"):
        next(frames_of("camera:/dev/video987"))


# ---- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        *["file:///etc/passwd", "concat:http://a|http://b", "ftp://example.org/a", "rtp://example.org", "data:,a"],
        *["httpx://example.org", "http:example.org", "http:///a.mp4", "http://", "subfile,,start,0,:http://a/", ""],
        *[
            "http://exa mple.org",
            "http://example.org\\@127.0.0.1/",
            "http://example.org/\n",
            "http://ex\u00e4mple.org",
        ],
        *["http://example.org:99999/", "http://[::1/", "crypto+http://example.org", "http://a/" + "a" * 3000],
    ],
)
@pytest.mark.parametrize("allow_private", [True, False])
def test_other_schemes_and_malformed_addresses_are_refused(url, allow_private):
    with pytest.raises(UserError):
        check_url(url, allow_private=allow_private)


@pytest.mark.parametrize(
    "host",
    [
        *[
            "127.0.0.1",
            "localhost",
            "0.0.0.0",
            "10.1.2.3",
            "192.168.0.1",
            "172.16.0.1",
            "169.254.169.254",
            "100.64.0.1",
        ],
        *[
            "2130706433",
            "0x7f.1",
            "127.1",
            "0177.0.0.1",
            "224.0.0.1",
            "user:pass@127.0.0.1",
            "93.184.216.34@127.0.0.1",
        ],
        *[
            "[::1]",
            "[::]",
            "[fe80::1]",
            "[fc00::1]",
            "[fec0::1]",
            "[::ffff:127.0.0.1]",
            "[64:ff9b::7f00:1]",
            "[2002:7f00:1::]",
        ],
    ],
)
def test_addresses_that_are_not_public_are_refused_unless_allowed(host):
    for scheme in ("http", "https", "rtsp", "rtsps"):
        with pytest.raises(UserError, match="only public addresses|is not known"):
            check_url(f"{scheme}://{host}:8080/live")
        check_url(f"{scheme}://{host}:8080/live", allow_private=True)


@pytest.mark.parametrize("source", ["camera:0", "camera:/dev/x://y", __file__, f"file://{__file__}", "-", "0"])
def test_a_stranger_names_neither_files_nor_cameras(source):
    with pytest.raises(UserError, match="must begin with http://"):
        frames_of(source, allow_private=False)


def test_every_address_of_a_name_must_be_public(monkeypatch):
    def resolve(host, port, **_):
        return [(0, 0, 0, "", (address, port)) for address in names[host]]

    names = {"good.example": ["93.184.216.34", "2606:2800:220:1::1"], "mixed.example": ["93.184.216.34", "10.0.0.7"]}
    monkeypatch.setattr(live_addresses.socket, "getaddrinfo", resolve)
    check_url("https://good.example/live.m3u8?a=b#c")
    with pytest.raises(UserError, match="leads to 10.0.0.7"):
        check_url("https://mixed.example/")


@given(st.text(max_size=60), st.sampled_from(["", "http://", "rtsp://", "https://a@"]))
def test_any_text_is_refused_or_an_address_in_plain_ascii(text, start):
    try:
        check_url(start + text, allow_private=True)
    except UserError:
        return
    assert (start + text).isascii() and " " not in text
