"""The endpoint's client: patient where waiting helps, clear where it does not, silent about the key."""

import email.utils
import threading
import time

import pytest

from swwatch.errors import UserError
from swwatch.judge.client import ChatClient, NoAnswer, check_url
from swwatch.judge.rate_limit import RateLimit, StopRequested
from tests.helpers.judge_server import KEY, cut, drop, error, grade, hang, raw

REQUEST = {"model": "judge", "temperature": 0, "messages": [{"role": "user", "content": "hello"}]}


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self):
        self.now_s, self.sleeps = 100.0, []

    def __call__(self):
        return self.now_s

    def sleep(self, seconds):
        self.sleeps.append(seconds)
        self.now_s += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def client(server, clock):
    rate_limit = RateLimit(clock=clock, sleep=clock.sleep)
    with ChatClient(
        server.url, KEY, key_name="MY_KEY", timeout_s=5, retries=3, rate_limit=rate_limit, jitter=lambda: 1.0
    ) as made:
        yield made


def test_an_answer_carries_text_and_tokens_and_the_key_goes_in_the_header(server, client):
    server.plan = ["hello yourself"]
    answer = client.ask(REQUEST)
    assert (answer.text, answer.prompt_tokens, answer.completion_tokens) == ("hello yourself", 100, 10)
    assert (answer.finish_reason, answer.model) == ("stop", "judge-2")
    assert server.requests == [REQUEST] and server.keys == [f"Bearer {KEY}"]


@pytest.mark.parametrize(
    "trouble",
    [
        error(500),
        error(503),
        error(429),
        error(408),
        drop,
        cut,
        raw(b"<html>busy</html>"),
        raw(b'{"choices": []}'),
        raw(b'{"error": {"message": "upstream"}}'),
        raw(b"[" * 100_000),
        raw(b"null"),
    ],
)
def test_trouble_that_may_pass_is_tried_again_with_growing_waits(server, client, clock, trouble):
    server.plan = [trouble, trouble, "fine"]
    assert client.ask(REQUEST).text == "fine"
    assert clock.sleeps == [1.0, 2.0] and len(server.requests) == 3


def test_jitter_shortens_a_wait_to_half_at_most(server, clock):
    rate_limit = RateLimit(clock=clock, sleep=clock.sleep)
    server.plan = [error(500), error(500), "fine"]
    with ChatClient(server.url, None, rate_limit=rate_limit, jitter=lambda: 0.0) as client:
        client.ask(REQUEST)
    assert clock.sleeps == [0.5, 1.0]


def test_a_timeout_is_tried_again(server, clock):
    server.plan = [hang, "fine"]
    with ChatClient(server.url, None, timeout_s=0.2, rate_limit=RateLimit(clock=clock, sleep=clock.sleep)) as client:
        assert client.ask(REQUEST).text == "fine"
    assert len(server.requests) == 2


def test_retry_after_in_seconds_and_as_a_date_is_waited_for(server, client, clock):
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    server.plan = [error(429, Retry_After="30"), error(503, Retry_After=date), "fine"]
    assert client.ask(REQUEST).text == "fine"
    assert clock.sleeps[0] >= 30 and 95 < clock.sleeps[1] < 102 and len(clock.sleeps) == 2


@pytest.mark.parametrize("value", ["soon", "nan", "-5", "0"])
def test_a_senseless_retry_after_leaves_the_usual_wait(server, client, clock, value):
    server.plan = [error(429, Retry_After=value), "fine"]
    assert client.ask(REQUEST).text == "fine"
    assert clock.sleeps == [1.0]


def test_retry_after_holds_back_every_thread(server, clock):
    rate_limit = RateLimit(
        clock=clock, sleep=clock.sleeps.append
    )  # time stands still, as for a thread that comes right after
    server.plan = [error(429, Retry_After="30"), "fine"]
    with ChatClient(server.url, None, rate_limit=rate_limit, jitter=lambda: 1.0) as client:
        client.ask(REQUEST)
    clock.sleeps.clear()
    rate_limit.wait()
    assert clock.sleeps == [30]


def test_an_endpoint_that_wants_hours_is_an_error_and_not_a_long_sleep(server, client, clock):
    server.plan = [error(429, "daily limit", Retry_After="7200")]
    with pytest.raises(UserError, match="7200 s.*daily limit.*kept"):
        client.ask(REQUEST)
    assert clock.sleeps == []


def test_retries_end_and_tell_the_last_trouble(server, client):
    server.brain = lambda request: error(500, "out of memory")
    with pytest.raises(NoAnswer, match="4 tries failed.*500 out of memory"):
        client.ask(REQUEST)
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    "status, advice",
    [
        (400, "--max-tokens"),
        (401, "MY_KEY"),
        (402, "credit"),
        (403, "--model"),
        (404, "--base-url"),
        (422, "--extra"),
        (301, "--base-url"),
    ],
)
def test_refusals_are_not_repeated_and_say_what_to_do(server, client, status, advice):
    server.plan = [error(status, "no way")]
    with pytest.raises(UserError) as caught:
        client.ask(REQUEST)
    assert advice in str(caught.value) and "no way" in str(caught.value)
    assert len(server.requests) == 1


def test_a_used_up_quota_is_a_refusal_although_it_comes_as_429(server, client):
    server.plan = [error(429, "You exceeded your current quota", code="insufficient_quota")]
    with pytest.raises(UserError, match="credit"):
        client.ask(REQUEST)
    assert len(server.requests) == 1


def test_a_text_that_the_endpoints_filter_rejects_is_an_empty_answer(server, client):
    server.plan = [error(400, "filtered", code="content_filter")]
    answer = client.ask(REQUEST)
    assert (answer.text, answer.finish_reason) == ("", "content_filter")


def test_parts_of_content_are_joined_and_odd_token_counts_are_none(server, client):
    server.plan = [raw(b'{"choices": [{"message": {"content": [{"text": "a"}, {"text": "b"}]}}], "usage": null}')]
    answer = client.ask(REQUEST)
    assert (answer.text, answer.prompt_tokens) == ("ab", None)
    server.plan = [raw(b'{"choices": [{"message": {"content": null}}], "usage": {"prompt_tokens": "many"}}')]
    assert client.ask(REQUEST).text == ""


def test_a_server_that_repeats_the_key_finds_it_hidden(server, client):
    server.plan = [error(401, f"Incorrect API key provided: {KEY}")]
    with pytest.raises(UserError) as caught:
        client.ask(REQUEST)
    assert KEY not in str(caught.value) and "***" in str(caught.value)
    server.plan = [f"your key is {KEY}"]
    assert client.ask(REQUEST).text == "your key is ***"


def test_a_placeholder_key_of_a_local_server_leaves_answers_alone(server):
    server.plan = [grade(5, "fine")]
    with ChatClient(server.url, "e") as client:
        assert client.ask(REQUEST).text == grade(5, "fine")
    assert server.keys == ["Bearer e"]


def test_a_key_that_no_header_can_carry_is_an_error_that_hides_it(server):
    with pytest.raises(UserError, match="MY_KEY") as caught:
        ChatClient(server.url, "abc\ndefghijk", key_name="MY_KEY")
    assert "defghijk" not in str(caught.value)
    with ChatClient(server.url, f" {KEY}\n") as client:  # what `export KEY=$(cat file)` leaves around it
        client.ask(REQUEST)
    assert server.keys == [f"Bearer {KEY}"]


def test_a_connection_that_nobody_takes_is_retried_then_told(clock):
    with ChatClient(
        "http://127.0.0.1:9", None, retries=1, rate_limit=RateLimit(clock=clock, sleep=clock.sleep)
    ) as client:
        with pytest.raises(NoAnswer, match="connection failed"):
            client.ask(REQUEST)


def test_base_urls():
    assert check_url(" https://a.b/v1/ ") == "https://a.b/v1"
    assert check_url("http://h:8000/v1/chat/completions") == "http://h:8000/v1"
    for wrong in ("a.b/v1", "ftp://a.b", "", "http://", "https://a.b:port/v1"):
        with pytest.raises(UserError):
            check_url(wrong)
    for secret in ("https://user:hunter2@a.b/v1", "https://a.b/v1?key=hunter2"):
        with pytest.raises(UserError) as caught:
            check_url(secret)
        assert "hunter2" not in str(caught.value)


def test_requests_per_minute_space_the_requests_of_all_threads(clock):
    rate_limit = RateLimit(30, clock=clock, sleep=clock.sleep)
    times = []
    for _ in range(4):
        rate_limit.wait()
        times.append(clock.now_s)
    assert times == [100, 102, 104, 106]


def test_stopping_wakes_those_who_wait():
    rate_limit = RateLimit(0.01)
    rate_limit.wait()
    outcome = []

    def wait():
        try:
            rate_limit.wait()
        except StopRequested:
            outcome.append("stopped")

    thread = threading.Thread(target=wait)
    thread.start()
    rate_limit.stop()
    thread.join(10)
    assert outcome == ["stopped"]
