"""Files from and for strangers: quotas, random names, nothing outside the allowed folder."""

import asyncio
import errno
import io
import os
from pathlib import Path

import pytest

from swwatch.client.codes import ProtocolError
from swwatch.serve.files import Uploads
from swwatch.serve.folder import Folder
from swwatch.serve.metrics import Metrics
from swwatch.serve.settings import Limits

KIND = "multipart/form-data; boundary=xyz"


def form(data: bytes, name: str = "file", end: str = "--xyz--\r\n") -> bytes:
    head = f'--xyz\r\nContent-Disposition: form-data; name="{name}"; filename="../../a.mp4"\r\n\r\n'
    return head.encode() + data + b"\r\n" + end.encode()


async def chunks(body: bytes, size: int = 7):
    for start in range(0, len(body), size):
        yield body[start : start + size]


def send(uploads: Uploads, body: bytes, kind: str = KIND, length: int | None = None) -> str:
    return asyncio.run(uploads.receive(kind, length, chunks(body)))[0]


@pytest.fixture
def now():
    return [0.0]


@pytest.fixture
def uploads(now):
    made = Uploads(
        Limits(max_upload_bytes=100, max_uploads_bytes=150, max_uploads=3, keep_s=10), Metrics(), lambda: now[0]
    )
    yield made
    made.close()
    assert not made._folder.exists()


def on_disk(uploads: Uploads) -> list[bytes]:
    return sorted(path.read_bytes() for path in uploads._folder.iterdir())


def test_a_file_comes_whole_under_a_name_of_ours(uploads):
    data = bytes(range(90)) + b"\r\n--xy"
    with uploads.using(send(uploads, form(b"ignored", "note", "") + form(data))) as path:
        assert path.read_bytes() == data and path.parent == uploads._folder and "a.mp4" not in path.name


@pytest.mark.parametrize(
    "kind, body, code",
    [
        ("text/plain", form(b"x"), "bad_message"),
        ("multipart/form-data", form(b"x"), "bad_message"),
        (KIND, form(b"x", "other"), "bad_message"),
        (KIND, form(b"x")[:-8], "bad_message"),
        (KIND, b"", "bad_message"),
        (KIND, b"garbage" * 9, "bad_message"),
        (KIND, form(b"x", end="") + form(b"y"), "bad_message"),
        (KIND, form(bytes(101)), "too_large"),
        ("multipart/form-data; boundary=" + 300 * "x", form(b"x"), "bad_message"),
        ('multipart/form-data; boundary="\xff;"', form(b"x"), "bad_message"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(uploads, kind, body, code):
    with pytest.raises(ProtocolError) as caught:
        send(uploads, body, kind)
    assert caught.value.code == code and on_disk(uploads) == []


def test_a_request_that_says_it_is_too_large_is_not_read(uploads):
    async def never():
        pytest.fail("was read")
        yield b""

    with pytest.raises(ProtocolError, match="100 bytes"):
        asyncio.run(uploads.receive(KIND, 10**9, never()))


@pytest.mark.parametrize("kind", ["field", "rest"])
def test_what_is_around_the_file_is_not_read_without_end(uploads, kind):
    async def endless():
        yield form(b"x", "other", "")[:-3] if kind == "field" else form(b"x")
        for _ in range(1000):
            yield bytes(1000)
        pytest.fail("was read")

    with pytest.raises(ProtocolError) as caught:
        asyncio.run(uploads.receive(KIND, None, endless()))
    assert caught.value.code == "too_large" and on_disk(uploads) == []


def test_a_client_that_goes_away_leaves_nothing_behind(uploads):
    async def breaks():
        yield form(bytes(50))[:-20]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        asyncio.run(uploads.receive(KIND, None, breaks()))
    assert on_disk(uploads) == [] and uploads._total() == 0


def test_all_files_together_have_a_quota_and_so_has_their_number(uploads):
    first = send(uploads, form(bytes(80)))
    with pytest.raises(ProtocolError, match="no room"):
        send(uploads, form(bytes(80)))
    uploads.delete(first)
    for _ in range(3):
        send(uploads, form(b"1"))
    with pytest.raises(ProtocolError, match="too many"):
        send(uploads, form(b"1"))


def test_a_file_in_use_goes_when_its_last_user_goes(uploads):
    name = send(uploads, form(b"data"))
    with uploads.using(name) as path:
        uploads.delete(name)
        assert path.exists()
        with pytest.raises(ProtocolError), uploads.using(name):
            pass
    assert not path.exists()


def test_old_files_are_removed(uploads, now):
    send(uploads, form(b"old"))
    now[0] = 6.0
    send(uploads, form(b"young"))
    now[0] = 11.0
    uploads.sweep()
    assert on_disk(uploads) == [b"young"]


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "allowed"
    (root / "sub").mkdir(parents=True)
    for path in (root / "a.mp4", root / "sub/b.MKV", root / "notes.txt", tmp_path / "secret.mp4"):
        path.write_text("x")
    (root / "inside.mp4").symlink_to(root / "a.mp4")
    (root / "out.mp4").symlink_to(tmp_path / "secret.mp4")
    (root / "up").symlink_to(tmp_path)
    (root / "loop.mp4").symlink_to(root / "loop.mp4")
    (root / "folder.mp4").mkdir()
    return Folder(root)


def test_the_allowed_folder_names_its_videos(folder):
    assert folder.names() == ["a.mp4", "inside.mp4", "sub/b.MKV"]
    assert [folder.path(name).name for name in folder.names()] == ["a.mp4", "a.mp4", "b.MKV"]
    assert Folder(None).names() == []


@pytest.mark.parametrize(
    "name",
    [
        "../secret.mp4",
        "sub/../../secret.mp4",
        "sub/../a.mp4",
        "/etc/passwd",
        "{root}/a.mp4",
        "out.mp4",
        "up/secret.mp4",
        "loop.mp4",
        "folder.mp4",
        "notes.txt",
        "missing.mp4",
        "a.mp4\0",
        "..\\secret.mp4",
        "a.mp4/../../secret.mp4",
        "x" * 1000 + ".mp4",
        "%2e%2e/secret.mp4",
        ".",
    ],
)
def test_no_name_leads_out_of_it(folder, name):
    name = name.format(root=folder.root)
    for where in (folder, Folder(None)):
        with pytest.raises(ProtocolError) as caught:
            where.path(name)
        assert caught.value.code == "not_found" and str(folder.root) not in caught.value.message


@pytest.mark.parametrize(
    "name", ["\xe9.mp4", 'a;b\\".mp4', "C:\\x", "%ff", 2000 * "x", "\u4e2d\U0001f600", "=?x?q?=", "'"]
)
def test_a_files_own_name_is_of_no_matter(uploads, name):
    body = form(b"data").replace(b"../../a.mp4", name.encode())
    with uploads.using(send(uploads, body)) as path:
        assert path.read_bytes() == b"data"


def test_senders_that_stand_still_make_room_for_one_that_does_not(uploads, now):
    async def stands_still(begun):
        yield form(b"x", end="")
        begun.set()
        await asyncio.Event().wait()

    async def run():
        begun = [asyncio.Event() for _ in range(3)]
        stalled = [asyncio.create_task(uploads.receive(KIND, None, stands_still(one))) for one in begun]
        for one in begun:
            await one.wait()
        name, _ = await uploads.receive(KIND, None, chunks(form(b"whole")))
        done, waiting = await asyncio.wait(stalled, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        assert [str(one.exception()) for one in done] == ["too slow, and others wait: send it again later"]
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return name

    with uploads.using(asyncio.run(run())) as path:
        assert path.read_bytes() == b"whole"
    assert on_disk(uploads) == [b"whole"]


@pytest.mark.parametrize("number, code", [(errno.ENOSPC, "full"), (errno.EROFS, "server_error")])
def test_a_disk_that_takes_nothing_is_told(uploads, monkeypatch, number, code):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", lambda *_, **__: Full())
    with pytest.raises(ProtocolError, match=os.strerror(number)) as caught:
        send(uploads, form(b"x"))
    assert caught.value.code == code and on_disk(uploads) == []


def test_names_that_json_cannot_carry_are_not_offered(folder):
    (folder.root / os.fsdecode(b"caf\xe9.mp4")).touch()
    assert folder.names() == ["a.mp4", "inside.mp4", "sub/b.MKV"]
