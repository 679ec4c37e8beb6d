"""Ask an OpenAI-compatible /chat/completions endpoint: retries, back-off, and errors that say what to do.

httpx is imported where it is used: a program's --help would wait for it longer than for all the rest.
"""

import email.utils
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swwatch.errors import UserError
from swwatch.judge.rate_limit import RateLimit

if TYPE_CHECKING:
    import httpx

RETRIED = {408, 409, 425, 429}  # and all of 500 and above
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0  # of the back-off; doubled at every try
LONGEST_HOLD_S = 600.0  # an endpoint that asks for more has used up a quota, and the user should know
SHORTEST_SECRET = 8  # placeholders of local servers ("x", "none") are no secrets and stand in ordinary answers


@dataclass(frozen=True)
class Reply:
    """What the endpoint said. Token counts are None where it tells none."""

    text: str
    finish_reason: str | None = None
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class NoAnswer(Exception):
    """All tries failed in ways that may pass (timeouts, 429, 5xx, broken connections)."""


class _Again(Exception):
    """One try failed in a way that may pass."""

    def __init__(self, problem: str, retry_after_s: float | None = None):
        super().__init__(problem)
        self.retry_after_s = retry_after_s


class ChatClient:
    """A patient client; one object serves any number of threads.

    Args:
        base_url: what precedes /chat/completions, as in https://api.openai.com/v1.
        key: sent as a bearer token; None for a server that wants none. It stands in no message and no answer.
        key_name: where the key came from, for messages.
        timeout_s: seconds without a sign of life after which a try counts as failed.
        retries: further tries after the first.
        rate_limit: the limiter that all requests go through; it also does the waiting.
        jitter: a number from 0 to 1 that spreads the waits of several threads.
    Attributes:
        on_trouble: may be set; is told in one line about each failed try that will be repeated.
    Raises:
        UserError: a base URL or a key that cannot be one.
    """

    def __init__(
        self,
        base_url: str,
        key: str | None,
        *,
        key_name: str = "the key",
        timeout_s: float = 60.0,
        retries: int = 6,
        rate_limit: RateLimit | None = None,
        jitter: Callable[[], float] = random.random,
    ):
        import httpx

        self.base_url = check_url(base_url)
        self._url = f"{self.base_url}/chat/completions"
        self._key, self._key_name = check_key(key, key_name), key_name
        self._retries, self._timeout_s = retries, timeout_s
        self.rate_limit = rate_limit or RateLimit()
        self._jitter = jitter
        self.on_trouble: Callable[[str], object] = lambda line: None
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        # the number of connections is the number of threads, which is not ours to limit here
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._http = httpx.Client(headers=headers, timeout=timeout_s, limits=limits)

    def __enter__(self) -> "ChatClient":
        return self

    def __exit__(self, *error) -> None:
        self._http.close()

    def ask(self, request: dict) -> Reply:
        """Post one chat completion request.

        Raises:
            UserError: the endpoint refuses in a way that waiting cannot mend (400, 401, 403, 404, a used-up quota).
            NoAnswer: every try failed.
            StopRequested: the run was ended.
        """
        for attempt in range(self._retries + 1):
            self.rate_limit.wait()
            try:
                return self._post(request)
            except _Again as problem:
                if attempt == self._retries:
                    raise NoAnswer(f"{attempt + 1} tries failed, the last so: {problem}") from None
                self._wait(attempt, problem)
        raise AssertionError("retries is negative")

    def _wait(self, attempt: int, problem: _Again) -> None:
        wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt) * (0.5 + 0.5 * self._jitter())
        if problem.retry_after_s is not None:
            if problem.retry_after_s > LONGEST_HOLD_S:
                raise UserError(
                    f"{self._url} wants a pause of {problem.retry_after_s:.0f} s ({problem}). Give the same command "
                    "again after that: what was answered is kept"
                )
            wait_s = max(wait_s, problem.retry_after_s + self._jitter())
            self.rate_limit.hold(problem.retry_after_s)  # a limit of the account concerns every thread
        self.on_trouble(f"{problem}; next try in {wait_s:.0f} s")
        self.rate_limit.sleep(wait_s)

    def _post(self, request: dict) -> Reply:
        import httpx

        try:
            response = self._http.post(self._url, content=json.dumps(request))
        except httpx.TimeoutException:
            raise _Again(f"no answer within {self._timeout_s:g} s") from None
        except httpx.RequestError as error:  # refused, reset, cut off in the middle of the body, not decodable
            raise _Again(self._hide(f"connection failed: {error or type(error).__name__}")) from None
        text = self._hide(response.content.decode("utf-8", "replace"))
        if response.status_code == 200:
            return _parse(text)
        return self._refused(response, text)

    def _refused(self, response: "httpx.Response", text: str) -> Reply:
        status, (code, detail) = response.status_code, _error_of(text)
        message = f"{self._url} says {status}: {detail}" if detail else f"{self._url} says {status}"
        if code in ("content_filter", "content_policy_violation"):
            return Reply("", finish_reason="content_filter")  # this one text is refused, not the run
        if code == "insufficient_quota" or status == 402:
            raise UserError(f"{message}. The account's credit is used up; what was answered is kept")
        if status in RETRIED or status >= 500:
            raise _Again(f"{status} {detail}".strip(), _retry_after_s(response.headers.get("Retry-After")))
        raise UserError(f"{message}. {self._advice(status)}")

    def _advice(self, status: int) -> str:
        if status == 401:
            return (
                f"The key is not accepted: does {self._key_name} hold the key of this endpoint?"
                if self._key
                else "It wants a key: name the environment variable that holds it with --key-env"
            )
        if status == 403:
            return "The key is known but may not do this: has its account access to the model given by --model?"
        if 300 <= status < 400 or status in (404, 405):
            return "Check --base-url (most end in /v1; /chat/completions is added) and --model"
        return "It does not accept the request: check --model, --temperature, --max-tokens and --extra"

    def _hide(self, text: str) -> str:
        """`text` without the key, which some servers repeat in their messages."""
        return text.replace(self._key, "***") if self._key and len(self._key) >= SHORTEST_SECRET else text


def check_url(base_url: str) -> str:
    """The base URL without a final slash.

    Raises:
        UserError: no http(s) address, or one with a part that may hold a secret.
    """
    import httpx

    try:
        url = httpx.URL(base_url.strip())
    except (httpx.InvalidURL, TypeError):
        raise UserError("--base-url is no address; one such as https://api.openai.com/v1 is wanted") from None
    if url.userinfo or url.query or url.fragment:
        raise UserError(
            "--base-url holds a user, a query or a fragment: give the key by --key-env and the bare address"
        )
    if url.scheme not in ("http", "https") or not url.host:
        raise UserError(f"--base-url {base_url}: an address such as https://api.openai.com/v1 is wanted")
    return str(url).rstrip("/").removesuffix("/chat/completions")


def check_key(key: str | None, key_name: str) -> str | None:
    """The key without white space around it.

    Raises:
        UserError: characters that no HTTP header can carry (the library's own message would show the key).
    """
    key = (key or "").strip()
    if not all("!" <= letter <= "~" for letter in key):
        raise UserError(f"{key_name} holds spaces or other characters that no key has: set it again")
    return key or None


def _parse(text: str) -> Reply:
    try:
        body = json.loads(text)
        choice = body["choices"][0]
        content = choice["message"].get("content")
        if isinstance(content, list):  # parts, as some servers answer
            content = "".join(part.get("text", "") for part in content)
        usage = body.get("usage") or {}
        return Reply(
            text=str(content or ""),
            finish_reason=choice.get("finish_reason"),
            model=body.get("model"),
            prompt_tokens=_count(usage.get("prompt_tokens")),
            completion_tokens=_count(usage.get("completion_tokens")),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        detail = _error_of(text)[1]
        raise _Again(f"the answer is no chat completion ({detail or 'is --base-url right?'})") from None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _error_of(text: str) -> tuple[str | None, str]:
    """(code, message in one short line) of an error's body, which may be anything."""
    code, message = None, text
    try:
        error = json.loads(text).get("error")
        if isinstance(error, dict):
            code, message = error.get("code") or error.get("type"), error.get("message") or ""
        elif error:
            message = error
    except (ValueError, AttributeError, RecursionError):
        pass  # not JSON: the text itself is all there is to tell
    line = " ".join(str(message).split())
    return code, line if len(line) <= 300 else line[:300] + "..."


def _retry_after_s(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date; None where it says neither."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if seconds == seconds else None
