"""Addresses of strangers: what was checked is what is connected to, whatever a name leads to and an answer says."""

import socket
import ssl
import subprocess
import threading
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swwatch.data.live import addresses, forward
from swwatch.data.live.sources import frames_of
from swwatch.errors import UserError
from tests.helpers.live_servers import http_server, rtsp_server

QUICK = {"open_timeout_s": 5, "read_timeout_s": 1, "backoff_s": 0.01, "allow_private": False}
OUTER, INNER = "127.0.0.1", "127.0.0.2"  # which stand for a public address and one of the inner network


@pytest.fixture
def leads_to(monkeypatch):
    """leads_to(address, ...): what names lead to at each look, the last from then on. Numbers lead to themselves."""
    answers = [OUTER]

    def resolve(host, port, **_):
        name = (answers.pop(0) if len(answers) > 1 else answers[0]) if host.endswith(".example") else host
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (name, port))]

    monkeypatch.setattr(addresses.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(addresses, "_is_public", lambda address: address == OUTER)
    return lambda *told: answers.__setitem__(slice(None), told)


@contextmanager
def says(text: str):
    """A server that says this to whoever connects. Yields its port."""
    with socket.create_server((OUTER, 0)) as listener:

        def serve():
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    client.recv(65536)
                    client.sendall(text.replace("\n", "\r\n").encode())

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@contextmanager
def untouched(port: int = 0):
    """An inner service, to which nobody connects. Yields its port."""
    with socket.create_server((INNER, port)) as listener:
        listener.setblocking(False)
        yield listener.getsockname()[1]
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("scheme", ["http", "https", "rtsp", "rtsps"])
def test_a_name_that_leads_elsewhere_after_the_check_is_not_followed(leads_to, scheme):
    with untouched() as port:
        leads_to(OUTER, INNER)
        with pytest.raises(UserError, match=f"leads to {INNER}: only public"):
            next(frames_of(f"{scheme}://name.example:{port}/clip.mp4", **QUICK))


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_a_redirect_to_the_inner_network_is_not_followed(leads_to, scheme):
    with untouched() as inner:
        version = {"http": "HTTP/1.1", "rtsp": "RTSP/1.0"}[scheme]
        text = f"{version} 302 Found\nCSeq: 1\nLocation: {scheme}://{INNER}:{inner}/\nContent-Length: 0\n\n"
        with says(text) as port, pytest.raises(UserError, match="leads to|redirects"):
            next(frames_of(f"{scheme}://name.example:{port}/clip.mp4", **QUICK))


@pytest.mark.parametrize("location", ["file:///etc/passwd", "/again"])
def test_a_redirect_without_end_or_to_another_scheme_is_told(leads_to, location):
    with says(f"HTTP/1.1 302 Found\nLocation: {location}\nContent-Length: 0\n\n") as port:
        with pytest.raises(UserError, match="redirects to file|redirects more than 5 times"):
            next(frames_of(f"http://name.example:{port}/clip.mp4", **QUICK))


def test_videos_come_through(leads_to, clip):
    with http_server(clip.read_bytes(), "whole") as server:
        url = f"http://name.example:{server.server_port}/a//clip.mp4?x=1"
        assert len(list(frames_of(url, **QUICK))) == 16
        assert server.asked[0] == "/a//clip.mp4?x=1"
    with rtsp_server() as server:
        frames = frames_of(server.url, **QUICK)
        assert next(frames)[1].shape == (48, 64, 3) and frames.is_live
        frames.stop()


def test_certificates_are_checked(leads_to, clip, tmp_path, monkeypatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=x -addext"
    try:
        files = ["subjectAltName=DNS:name.example", "-keyout", key, "-out", certificate]
        subprocess.run([*command.split(), *files], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs openssl, to make a certificate")
    with http_server(clip.read_bytes(), "whole") as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = f"https://name.example:{server.server_port}/clip.mp4"
        with pytest.raises(UserError, match="the certificate of name.example: self-signed|self signed"):
            next(frames_of(url, **QUICK))
        trusting = ssl.create_default_context(cafile=certificate)
        monkeypatch.setattr(forward.ssl, "create_default_context", lambda: trusting)
        assert len(list(frames_of(url, **QUICK))) == 16
        with pytest.raises(UserError, match="the certificate of other.example"):
            next(frames_of(url.replace("name", "other"), **QUICK))


DESCRIBED = b"RTSP/1.0 200 OK\r\nCSeq: 2\r\nContent-Length: 25\r\n\r\nRTSP/1.0 302 Found\r\n\r\nv=0"
SPOKEN = DESCRIBED + b"$\x00\x00\x05\r\n\r\nR" + b"OPTIONS rtsp://a RTSP/1.0\r\nCSeq: 1\r\n\r\n" + DESCRIBED


@given(st.lists(st.integers(0, len(SPOKEN)), max_size=8))
def test_rtsp_passes_in_whatever_pieces_it_comes(cuts):
    answers, places = forward.Answers("x"), [0, *sorted(cuts), len(SPOKEN)]
    assert b"".join(answers.feed(SPOKEN[a:b]) for a, b in zip(places, places[1:], strict=False)) == SPOKEN


@pytest.mark.parametrize(
    "said",
    [
        b"RTSP/1.0 302 Found\nLocation: rtsp://a\n\n",
        b"\n\nRTSP/1.0 301\r\r\n\r\r\n",
        b"$\x00\x00\x01xRTSP/1.0 307 x\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: 0\r\nContent-Length: 40\r\n\r\nRTSP/1.0 302 x\r\n\r\n",
        b"RTSP/1.0 0302 Found\r\n\r\n",
        b"RTSP/1.0\t302 Found\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 302 Found\r\n\r\n",
        b"x" * 70_000,
    ],
)
def test_rtsp_that_redirects_or_is_none_does_not_pass(said):
    with pytest.raises(UserError, match="redirects|does not speak RTSP"):
        forward.Answers("x").feed(said)


def test_what_ffmpeg_might_take_for_a_packet_is_no_field():
    assert forward.Answers("x").feed(b"RTSP/1.0 200 OK\n$a: 1\nCSeq: 1\n\n") == b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n"
