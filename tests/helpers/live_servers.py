"""Small servers over loopback for the tests of live sources: HTTP that misbehaves on request, RTSP of one clip."""

import http.server
import socketserver
import struct
import threading
import time
from contextlib import contextmanager
from fractions import Fraction

import av
import numpy as np


def picture(number, size=(48, 64)):
    """Noise, different for every number: nothing that a codec could leave out."""
    return np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)


def write(path, times, time_base, *, rate=25, size=(48, 64), options=None):
    """A clip of `picture(0)`, `picture(1)`, ... at the given times, in units of `time_base`."""
    # the index comes first where the file is an MP4: it can be played while it loads
    with av.open(str(path), "w", options={"movflags": "faststart"} if str(path).endswith("mp4") else {}) as file:
        stream = file.add_stream("libx264", rate=rate, options={"crf": "30", "bf": "0", "g": "10"} | (options or {}))
        (stream.height, stream.width), stream.pix_fmt = size, "yuv420p"
        stream.codec_context.time_base = time_base
        for number, time_ in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number, size), format="rgb24")
            frame.pts, frame.time_base = int(time_), time_base
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


class _Http(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.asked.append(self.path)
        self.close_connection = True
        how = server.plan.pop(0) if len(server.plan) > 1 else server.plan[0]
        if isinstance(how, int):
            return self.send_error(how)
        if how == "redirect":
            server.plan.insert(0, "whole")
            self.send_response(302)
            self.send_header("Location", "/elsewhere.mp4")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(200)
        if how == "endless":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            length = ("Connection", "close") if how == "closed" else ("Content-Length", str(len(server.body)))
            self.send_header(*length)
        self.end_headers()
        body = server.body[: len(server.body) // 2] if how in ("half", "stall") else server.body
        self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if how == "endless" else body)
        self.wfile.flush()
        if how == "stall":
            server.over.wait(30)


@contextmanager
def http_server(body, *plan):
    """Serves `body` at any path. `plan`: what each request gets in turn, the last one from then on: "whole",
    "endless" (in chunks, and then an end), "closed" (no length is told, the end of the connection is that of the
    content), "half" (and the connection breaks off), "stall", "redirect", or a status."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Http)
    server.daemon_threads = True
    server.body, server.plan, server.asked, server.over = body, list(plan), [], threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_port}/clip.mp4"
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()


class _Rtsp(socketserver.StreamRequestHandler):
    """Just enough of RFC 2326: one H.264 track, RTP in the same connection, one unit of the codec per packet."""

    def handle(self):
        while request := self._request():
            method, headers = request
            self.server.asked.append(method)
            if method == "DESCRIBE":
                sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=clip\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
                sdp += "a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:track1\r\n"
                self._answer(headers, "Content-Type: application/sdp", body=sdp)
            elif method == "SETUP":
                self._answer(headers, "Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1")
            elif method == "PLAY":
                self._answer(headers, "Session: 1")
                return self._play()
            else:
                self._answer(headers, "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")

    def _request(self):
        lines = []
        while line := self.rfile.readline().decode().strip():
            lines.append(line)
        if not lines:
            return None
        return lines[0].split()[0], dict(line.split(": ", 1) for line in lines[1:])

    def _answer(self, headers, *more, body=""):
        lines = ["RTSP/1.0 200 OK", f"CSeq: {headers['CSeq']}", *more, f"Content-Length: {len(body)}", "", body]
        self.wfile.write("\r\n".join(lines).encode())

    def _play(self):
        rate, sequence = self.server.rate, 0
        for number, units in enumerate(self.server.frames):
            for unit in units:
                ends = unit is units[-1]
                header = struct.pack(">BBHII", 0x80, 96 | 0x80 * ends, sequence, number * 90000 // rate, 7)
                self.wfile.write(struct.pack(">cBH", b"$", 0, len(header) + len(unit)) + header + unit)
                sequence += 1
            time.sleep(1 / rate / 4)  # a fast camera: four times its own pace
        if self.server.stalls:
            self.server.over.wait(30)


@contextmanager
def rtsp_server(num_frames=20, rate=10, *, stalls=False):
    """Plays a clip to everybody who asks, then closes the connection or, where it `stalls`, falls silent."""
    codec = av.CodecContext.create("libx264", "w")
    codec.height, codec.width, codec.pix_fmt = 48, 64, "yuv420p"
    codec.time_base = Fraction(1, rate)
    codec.options = {"crf": "30", "tune": "zerolatency", "g": "5"}
    frames = []
    for number in range(num_frames):
        frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
        frame.pts = number
        data = b"".join(bytes(packet) for packet in codec.encode(frame))
        frames.append([unit.strip(b"\0") for unit in data.split(b"\0\0\1") if unit.strip(b"\0")])
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Rtsp)
    server.daemon_threads = True
    server.frames, server.rate, server.stalls = frames, rate, stalls
    server.asked, server.over = [], threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.url = f"rtsp://user:secret@127.0.0.1:{server.server_address[1]}/clip"
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
