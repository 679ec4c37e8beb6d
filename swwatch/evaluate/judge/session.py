"""A judge at work for a program: its endpoint, its answers on disk, and a bar that shows how far it is."""

import os
import sys
from collections.abc import Callable, Hashable
from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm

from swwatch.errors import UserError
from swwatch.evaluate.judge.settings import JudgeSettings
from swwatch.evaluate.run_files import told_apart
from swwatch.judge.asking import Judge, Verdict, work_off
from swwatch.judge.cache import AnswerCache
from swwatch.judge.client import ChatClient
from swwatch.judge.rate_limit import RateLimit
from swwatch.judge.rubric import load_rubric


class JudgeSession:
    """What the questions of a program go through, for as long as its `with` block lasts.

    Attributes:
        rubric, criterion: the words of the task.
    Raises:
        UserError: on entering, where a key, a model or a criterion is missing.
    """

    def __init__(self, settings: JudgeSettings):
        self.settings, self._stack = settings, ExitStack()

    def __enter__(self):
        settings = self.settings
        self._fields = settings.request_fields()
        self._client = self._stack.enter_context(
            ChatClient(
                settings.base_url,
                settings.key(os.environ),
                key_name=settings.key_name or "--key-env",
                timeout_s=settings.timeout_s,
                retries=settings.retries,
                rate_limit=RateLimit(settings.requests_per_minute),
            )
        )
        self.rubric = load_rubric(settings.rubric)
        self.criterion = self.rubric.get(settings.criterion)
        often = 0.5 if sys.stderr.isatty() else 30
        bar = tqdm(desc="judge", unit="question", mininterval=often, dynamic_ncols=True)
        self._bar = self._stack.enter_context(bar)
        self._client.on_trouble = lambda line: bar.set_postfix_str(line, refresh=sys.stderr.isatty())
        return self

    def __exit__(self, *error) -> None:
        self._stack.close()

    def ask(
        self, run: Path, questions: dict[Hashable, list[dict]], read: Callable[[str], tuple]
    ) -> tuple[dict[Hashable, Verdict], dict]:
        """Put all questions about a run, several at once.

        Args:
            run: answers are kept beside it, unless the settings say where.
            questions: key -> messages.
            read: reply -> (value, why).
        Returns:
            Verdicts, and what they cost, for the report.
        """
        settings, bar = self.settings, self._bar
        cache = AnswerCache(settings.cache or run.absolute().parent / "judge_cache")
        judge = Judge(self._client, cache, self._fields, settings.reasks)
        tasks = {key: lambda messages=messages: judge.decide(messages, read) for key, messages in questions.items()}
        bar.reset(total=len(questions))

        def stop() -> None:
            if self._client.rate_limit.stop():
                bar.write("stopping: waiting for the answers under way; what was answered is kept", file=sys.stderr)

        def on_done(verdict: Verdict) -> None:
            bar.set_postfix_str("", refresh=False)  # the trouble told there is over
            bar.update()

        verdicts = work_off(tasks, settings.concurrency, stop=stop, on_done=on_done)
        cost = judge.usage.cost(settings.input_price, settings.output_price)
        return verdicts, {"tokens": judge.usage.tokens(), "cost": cost}

    def facts(self, rubric_sha256: str) -> dict:
        """What verdicts depend on, for the report."""
        request = dict(self._fields)
        return {
            "model": request.pop("model"),
            "endpoint": self._client.base_url,
            "request": request,
            "criterion": self.settings.criterion,
            "rubric_sha256": rubric_sha256,
        }


def names(path_a: Path, path_b: Path) -> tuple[str, str]:
    """The runs' names; with their folders' where they are the same.

    Raises:
        UserError: it is one and the same file.
    """
    if path_a.resolve() == path_b.resolve():
        raise UserError(f"{path_a} against itself: name another run by --against")
    paths = [[*path.resolve().parts[:-1], path.stem.removesuffix("_infer")] for path in (path_a, path_b)]
    return tuple(told_apart(paths))


def exit_code(reports: list[dict], noun: str) -> int:
    """1 where the endpoint left some unanswered, which is told."""
    num_unanswered = sum(report["num_unanswered"] for report in reports)
    if num_unanswered:
        print(f"{num_unanswered} {noun} got no answer: give the same command again to ask only these", file=sys.stderr)
    return 1 if num_unanswered else 0
