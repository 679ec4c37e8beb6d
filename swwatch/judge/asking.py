"""One question to a verdict: first the answers on disk, then the endpoint, again where a reply is unusable."""

import threading
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field

from swwatch.errors import UserError
from swwatch.judge.cache import AnswerCache, question_key
from swwatch.judge.client import ChatClient, NoAnswer, Reply
from swwatch.judge.rate_limit import StopRequested
from swwatch.judge.rubric import Malformed, ask_again

SILENT_LIMIT = 3  # questions in a row that got no answer in spite of all retries: the endpoint is down


@dataclass(frozen=True)
class Verdict:
    """What came of a question: `value` is None where there is no usable answer, and `why` then tells the reason."""

    value: int | str | dict | None
    why: str
    unanswered: bool = False  # no answer at all, so a later run asks again


@dataclass
class TokenUsage:
    """Answers and their tokens; `num_unmetered` answers came without token counts."""

    num_answers: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    num_unmetered: int = 0

    def add(self, answer: Reply) -> None:
        self.num_answers += 1
        self.prompt_tokens += answer.prompt_tokens or 0
        self.completion_tokens += answer.completion_tokens or 0
        self.num_unmetered += answer.prompt_tokens is None or answer.completion_tokens is None

    def cost(self, input_price: float, output_price: float) -> float:
        """Prices are per million tokens."""
        return (self.prompt_tokens * input_price + self.completion_tokens * output_price) / 1e6


@dataclass
class Usage:
    """What was asked now and what was taken from disk (and had been paid for when it was asked)."""

    this_run: TokenUsage = field(default_factory=TokenUsage)
    from_cache: TokenUsage = field(default_factory=TokenUsage)

    def tokens(self) -> dict:
        return asdict(self)

    def cost(self, input_price: float | None, output_price: float | None) -> dict | None:
        """In the currency of the prices; None without them."""
        if input_price is None or output_price is None:
            return None
        return {name: getattr(self, name).cost(input_price, output_price) for name in ("this_run", "from_cache")}


class Judge:
    """Asks and reads; one object serves any number of threads.

    Args:
        fields: of every request besides its messages (model, temperature, ...).
        num_reasks: how often a question is put again after an unusable reply.
    """

    def __init__(self, client: ChatClient, cache: AnswerCache, fields: dict, num_reasks: int):
        self._client, self._cache = client, cache
        self._fields, self._num_reasks = fields, num_reasks
        self._lock = threading.Lock()
        self._num_silent = 0
        self.usage = Usage()

    def decide(self, messages: list[dict], read: Callable[[str], tuple]) -> Verdict:
        """Put a question.

        Args:
            read: reply -> (value, why); raises Malformed.
        Raises:
            UserError: the endpoint refuses, or has not answered several questions in a row.
            StopRequested: the run is being ended.
        """
        question, problem = messages, ""
        for attempt in range(1 + self._num_reasks):
            try:
                answer = self._answer({**self._fields, "messages": question})
            except NoAnswer as error:
                return Verdict(None, str(error), unanswered=True)
            try:
                return Verdict(*read(answer.text))
            except Malformed as error:
                problem = f"{error}{_cut_short(answer)}"
                question = ask_again(messages, str(error), attempt + 1)
        return Verdict(None, f"none of {1 + self._num_reasks} replies could be used; the last: {problem}")

    def _answer(self, request: dict) -> Reply:
        key = question_key(self._client.base_url, request)
        if (answer := self._cache.get(key)) is None:
            with self._cache.claim(key, self._client.rate_limit.sleep):
                if (answer := self._cache.get(key)) is None:
                    return self._fetch(key, request)
        with self._lock:
            self.usage.from_cache.add(answer)
        return answer

    def _fetch(self, key: str, request: dict) -> Reply:
        try:
            answer = self._client.ask(request)
        except NoAnswer as error:
            with self._lock:
                self._num_silent += 1
                num_silent = self._num_silent
            if num_silent >= SILENT_LIMIT:
                raise UserError(
                    f"{self._client.base_url} does not answer ({error}). Check that it is up and that --base-url is "
                    "right, or ask less at once (--concurrency, --requests-per-minute); then give the same command "
                    "again: what was answered is kept"
                ) from error
            raise
        self._cache.put(key, self._client.base_url, request, answer)
        with self._lock:
            self._num_silent = 0
            self.usage.this_run.add(answer)
        return answer


def _cut_short(answer: Reply) -> str:
    if answer.finish_reason == "length":
        return " (it was cut at --max-tokens)"
    return " (the endpoint's filter held it back)" if answer.finish_reason == "content_filter" else ""


def work_off(
    tasks: Mapping[Hashable, Callable[[], Verdict]],
    num_threads: int,
    *,
    stop: Callable[[], object],
    on_done: Callable[[Verdict], object] = lambda verdict: None,
) -> dict[Hashable, Verdict]:
    """Run all tasks in threads; the verdicts in the tasks' order.

    The first error (or Ctrl-C) calls `stop`, drops what has not begun, waits for the answers under way, which are
    thereby kept, and is raised.
    """

    def guarded(task: Callable[[], Verdict]) -> Verdict:
        try:
            return task()
        except StopRequested:
            raise
        except BaseException:
            stop()  # here and at once: the main thread may be slow to hear of it
            raise

    with ThreadPoolExecutor(num_threads) as pool:
        futures = {pool.submit(guarded, task): key for key, task in tasks.items()}
        done = {}
        try:
            for future in as_completed(futures):
                if isinstance(future.exception(), StopRequested):
                    continue  # the error that ended the run is still to come
                done[futures[future]] = future.result()
                on_done(done[futures[future]])
        except BaseException:
            stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {key: done[key] for key in tasks}
