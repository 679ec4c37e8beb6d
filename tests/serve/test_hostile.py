"""An honest session beside two hostile ones, over real sockets: it is served, and it goes on speaking."""

import contextlib
import io
import itertools
import threading

import numpy as np
from PIL import Image
from websockets.exceptions import ConnectionClosed

from swwatch.client.protocol import HEADER, MAGIC
from tests.helpers.server_process import picture

SMALL = picture()


def slow_picture() -> bytes:
    """As many pixels and scans as the server takes."""
    pixels = np.random.default_rng(0).integers(0, 255, (250, 250, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", progressive=True, quality=60)
    assert len(out.getvalue()) < 500_000
    return out.getvalue()


def flood(connection, messages, over: threading.Event) -> threading.Thread:
    """Send one message after the other, as fast as the server takes them, and read no answer."""

    def send():
        with contextlib.suppress(ConnectionClosed, OSError, TimeoutError):
            for message in messages:
                if over.is_set():
                    return
                connection.socket.send(message)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


def test_an_honest_session_beside_two_hostile_ones_is_not_cut_and_goes_on_speaking(client):
    honest, slow, jumping = (client(open={}) for _ in range(3))
    for one in (honest, slow, jumping):
        one.until("opened")
    data, over = slow_picture(), threading.Event()
    frames = (HEADER.pack(MAGIC, n % 2**32, n / 2) + data for n in itertools.count())
    # ten seconds of video by one small picture, and a question and garbage beside each
    small = (HEADER.pack(MAGIC, n % 2**32, 10.0 * n) + SMALL for n in itertools.count())
    texts = itertools.cycle(['{"type":"ask","question":"x"}', '{"type":"ping"}', "{"])
    both = itertools.chain.from_iterable(zip(small, texts, strict=False))
    floods = [flood(slow, frames, over), flood(jumping, both, over)]
    try:
        for number in range(12):
            honest.frame(number)
            ack = honest.until("ack")
            assert ack.taken and not ack.reason
        honest.send(type="end")
        assert honest.until("end").reason == "finished"
    finally:
        over.set()
        for one in (slow, jumping):
            one.socket.socket.close()
        for thread in floods:
            thread.join(30)
    watched, tokens = honest.of("watched"), honest.of("token")
    lost = sum(event.steps for event in honest.of("dropped"))
    assert not honest.of("error") and len(watched) + lost == 6 and len(watched) >= 4
    assert len({token.step for token in tokens}) >= len(watched) - 1, "it spoke all the while"
