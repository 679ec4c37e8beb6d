"""Answers on disk: found again by content, whole or not at all, safe among threads and processes."""

import fcntl
import json
import threading
from types import SimpleNamespace

import pytest

from swwatch.errors import UserError
from swwatch.judge.cache import AnswerCache, question_key
from swwatch.judge.client import Reply

URL, REQUEST = "https://a.b/v1", {"model": "judge", "temperature": 0, "messages": [{"role": "user", "content": "é"}]}
KEY = question_key(URL, REQUEST)


def no_sleep(seconds):
    raise AssertionError("nobody else holds it")


def test_an_answer_is_found_again_with_all_it_holds(tmp_path):
    cache = AnswerCache(tmp_path / "new" / "cache")
    assert cache.get(KEY) is None
    answer = Reply("text é", "stop", "judge-2", 3, None)
    with cache.claim(KEY, no_sleep):
        cache.put(KEY, URL, REQUEST, answer)
    assert AnswerCache(tmp_path / "new" / "cache").get(KEY) == answer
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]  # no lock, no half-written file is left
    assert json.loads(file.read_text())["request"] == REQUEST


@pytest.mark.parametrize(
    "url, change",
    [
        ("https://a.c/v1", {}),
        (URL, {"model": "other"}),
        (URL, {"temperature": 1}),
        (URL, {"seed": 1}),
        (URL, {"messages": [{"role": "user", "content": "e"}]}),
    ],
)
def test_whatever_differs_in_the_question_is_another_question(url, change):
    assert question_key(url, REQUEST | change) != KEY
    assert question_key(URL, dict(reversed(REQUEST.items()))) == KEY  # the order of fields says nothing


@pytest.mark.parametrize("damage", [b"", b'{"answer": {"te', b"\xff", b"[]", b'{"answer": {"tone": 1}}', b"null"])
def test_a_damaged_entry_counts_as_none_and_is_replaced(tmp_path, damage):
    cache = AnswerCache(tmp_path)
    with cache.claim(KEY, no_sleep):
        cache.put(KEY, URL, REQUEST, Reply("a"))
        (file,) = tmp_path.rglob("*.json")
        file.write_bytes(damage)
        assert cache.get(KEY) is None
        cache.put(KEY, URL, REQUEST, Reply("b"))
    assert cache.get(KEY) == Reply("b")


def test_one_holder_at_a_time_whoever_leaves_and_comes(tmp_path):
    cache, inside, most, lock = AnswerCache(tmp_path), [0], [0], threading.Lock()
    pause = threading.Event()

    def work():
        for _ in range(20):
            with cache.claim(KEY, lambda seconds: pause.wait(0.001)):
                with lock:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                pause.wait(0.0005)
                with lock:
                    inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == [1] and not list(tmp_path.rglob("*.lock"))


def test_a_lock_file_that_its_last_holder_removed_meanwhile_is_no_lock(tmp_path, monkeypatch):
    cache, removed = AnswerCache(tmp_path), []
    path = tmp_path / KEY[:2] / f"{KEY}.lock"

    def flock_after_removal(file, how):
        if not removed:
            removed.append(path.unlink())
        fcntl.flock(file, how)

    ours = SimpleNamespace(**{**vars(fcntl), "flock": flock_after_removal})
    monkeypatch.setattr("swwatch.paths.fcntl", ours)
    with cache.claim(KEY, no_sleep):
        assert path.exists() and removed


def test_a_lock_left_by_a_killed_process_holds_nobody_up(tmp_path):
    cache = AnswerCache(tmp_path)
    (tmp_path / KEY[:2]).mkdir()
    (tmp_path / KEY[:2] / f"{KEY}.lock").touch()
    with cache.claim(KEY, no_sleep):
        cache.put(KEY, URL, REQUEST, Reply("a"))
    assert cache.get(KEY) == Reply("a")


def test_a_full_disk_is_told_and_an_answer_is_whole_or_not_there(small_disk):
    cache = AnswerCache(small_disk(64 << 10))
    with cache.claim(KEY, no_sleep):
        with pytest.raises(UserError, match="cannot keep an answer in .*No space left.*make room or give --cache"):
            cache.put(KEY, URL, REQUEST, Reply("a" * (80 << 10)))
        assert cache.get(KEY) is None
        cache.put(KEY, URL, REQUEST, Reply("a"))
    assert cache.get(KEY) == Reply("a")


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        AnswerCache(tmp_path / "file" / "cache")
