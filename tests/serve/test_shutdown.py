"""A signal, at whatever moment: sessions end with an event, what clients sent is removed, the exit code says it."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path


def test_a_signal_ends_all_sessions_with_an_event(leaving, client):
    mine = {"server": leaving, "open": {}}
    speaking, waiting, silent, absent = (client(**mine) for _ in range(4))
    for one in (speaking, waiting, silent, absent):
        one.until("opened")
    silent.frame(0, data=b"stuck")  # is being decoded
    unopened = client(server=leaving)
    for number in range(6):
        speaking.frame(number)
    speaking.until("token")
    speaking.send(type="end")  # thousands of tokens to come
    deaf = socket.create_connection(("127.0.0.1", int(leaving.url.rpartition(":")[2])))  # never says a word
    stalled = socket.create_connection(("127.0.0.1", int(leaving.url.rpartition(":")[2])), timeout=60)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{"
    stalled.sendall(head.encode())
    absent.socket.socket.shutdown(socket.SHUT_RDWR)
    leaving.upload(b"something")
    folders = set(Path(tempfile.gettempdir()).glob("swwatch-uploads-*"))
    assert any(list(folder.iterdir()) for folder in folders)

    leaving.process.send_signal(signal.SIGINT)
    for one in (speaking, waiting, silent):
        assert one.until("end").reason == "shutdown" and one.closed() == 1001
    assert unopened.closed() == 1001
    assert leaving.stop() == 0
    deaf.close()
    assert b"the server is stopping" in stalled.recv(4096)
    stalled.close()
    events = [json.loads(line)["event"] for line in leaving.log.read_text().splitlines()]
    assert events[-1] == "stopped" and events.count("session ended") == 4
    assert "Traceback" not in leaving.log.read_text()
    assert not any(list(folder.iterdir()) for folder in folders if folder.exists() and _is_ours(folder, leaving))


def _is_ours(folder: Path, server) -> bool:
    return any(path.read_bytes() == b"something" for path in folder.iterdir())


LOADING = """
import tempfile, time
from swwatch.cli import run
from swwatch.serve import command
from swwatch.serve.files import Uploads
from swwatch.serve.record import Recordings
def build(settings, gate):
    made = Uploads(settings, None), Recordings(None, 60)
    print("loading", flush=True)
    time.sleep(600)
command.build = build
run(command.main, ["--port", "0"])
"""


def test_a_signal_while_the_model_is_loaded_leaves_nothing_behind(tmp_path):
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", LOADING], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "loading\n" and len(list(tmp_path.iterdir())) == 2
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM and not list(tmp_path.iterdir())
