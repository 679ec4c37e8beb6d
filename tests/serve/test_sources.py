"""What the server reads for a session: an uploaded video, a file of its folder; and recordings of what was said."""

import json
import time

import pytest

from swwatch.client.protocol import parse_server


def test_an_upload_is_narrated_recorded_and_removed(server, client, clip):
    status, answer = server.upload(clip.read_bytes())
    assert status == 201 and answer["bytes"] == clip.stat().st_size
    began_s = time.monotonic()
    connection = client(open={"source": {"kind": "upload", "id": answer["id"]}, "record": True, "policy": "block"})
    opened = connection.until("opened")
    assert server.get(f"/api/uploads/{answer['id']}", "DELETE")[0] == 204, "it stays while it is read"
    end = connection.until("end")
    assert end.reason == "finished" and end.recording == opened.recording
    assert [watched.step for watched in connection.of("watched")] == [0, 1], "a clip of two seconds"
    assert time.monotonic() - began_s >= 1.5, "played at its own pace; a busy machine only makes it longer"
    assert connection.of("ack") == [] and len(connection.of("token")) == end.tokens
    assert server.get(f"/api/uploads/{answer['id']}", "DELETE")[0] == 404

    lines = server.get(f"/api/recordings/{end.recording}.jsonl")[1].decode().splitlines()
    assert opened.session not in "".join(lines)
    first, *events = [json.loads(line) for line in lines]
    assert first["type"] == "opened" and all(event.pop("at_s") >= 0 for event in events)
    numbered = [message for message in connection.got if getattr(message, "n", None) is not None]
    assert [parse_server(json.dumps(event)) for event in events] == numbered
    assert server.get(f"/api/recordings/{end.recording}.vtt")[1].startswith(b"WEBVTT\n\n00:00:")


def test_a_file_of_the_allowed_folder_is_narrated(server, client):
    assert server.json("/api/files") == {"files": ["damaged.mp4", "sub/clip.mp4"]}
    connection = client(open={"source": {"kind": "file", "name": "sub/clip.mp4"}})
    connection.until("opened")
    connection.frame(0)
    error = connection.until("error")
    assert (error.code, error.fatal) == ("unsupported", False), "no frames beside the server's own"
    connection.until("watched")
    connection.send(type="end")
    assert connection.until("end").reason == "finished"


@pytest.mark.parametrize("name", ["out.mp4", "../clip.mp4", "sub/../../clip.mp4", "/etc/passwd", "sub", "no.mp4"])
def test_no_name_leads_out_of_the_folder(server, client, name):
    connection = client(open={"source": {"kind": "file", "name": name}})
    error = connection.next()
    assert (error.code, error.fatal) == ("not_found", True)


def test_a_file_that_is_no_video_is_told_without_its_path(server, client, allowed):
    connection = client(open={"source": {"kind": "file", "name": "damaged.mp4"}})
    while (message := connection.next()).type != "error":
        assert message.type == "opened"
    assert (message.code, message.fatal) == ("source", True)
    assert "damaged.mp4" in message.message and str(allowed) not in message.message
    status, answer = server.upload(b"no video at all")
    connection = client(open={"source": {"kind": "upload", "id": answer["id"]}})
    while (message := connection.next()).type != "error":
        assert message.type == "opened"
    assert message.code == "source" and answer["id"] not in message.message and "/" not in message.message
    assert connection.closed() == 4500


def test_a_session_of_a_file_can_be_stopped_and_its_place_is_free_again(server, client):
    for _ in range(6):
        connection = client(open={"source": {"kind": "file", "name": "sub/clip.mp4"}})
        connection.until("opened")
        connection.send(type="stop")
        assert connection.until("end").reason == "stopped"


@pytest.mark.parametrize("name", ["x", "..%2f..%2fetc%2fpasswd", "%2e%2e/x"])
def test_only_recordings_can_be_fetched(server, name):
    assert server.get(f"/api/recordings/{name}.jsonl")[0] == 404
