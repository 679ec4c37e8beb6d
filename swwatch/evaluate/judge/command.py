"""Let a language model grade the fluency of captions, or say which of two runs is better. Answers are kept on disk."""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path

from tqdm import tqdm

from swwatch.config import add_flags, load_settings
from swwatch.data.annotations import write_atomic
from swwatch.errors import UserError
from swwatch.evaluate.judge.settings import CONFIG, JudgeSettings
from swwatch.evaluate.judge.text import describe_grades, describe_pair
from swwatch.evaluate.predictions import Predictions, read_predictions, some
from swwatch.evaluate.results import beside
from swwatch.judge import pairwise, pointwise
from swwatch.judge.asking import Judge, Verdict, work_off
from swwatch.judge.cache import AnswerCache
from swwatch.judge.client import ChatClient
from swwatch.judge.pace import Pace
from swwatch.judge.rubric import load_rubric, read_choice, read_grade


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="swwatch judge",
        description=__doc__,
        epilog="Precedence: flags, then environment variables, then configs/judge.yaml, then the defaults.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="predictions of a run (NAME_infer.json)")
    parser.add_argument("--against", type=Path, metavar="RUN", help="compare with this run instead of grading")
    add_flags(parser, JudgeSettings)
    parser.add_argument("--config", type=Path, help="settings file instead of configs/judge.yaml")
    return parser


def main(argv: list[str]) -> int:
    flags = vars(build_parser().parse_args(argv))
    runs, against, config = (flags.pop(name) for name in ("runs", "against", "config"))
    yaml_path = config or (CONFIG if CONFIG.exists() else None)
    settings = load_settings(JudgeSettings, yaml_path=yaml_path, env=os.environ, flags=flags)
    if against is None and settings.criterion != JudgeSettings.criterion:
        raise UserError(f"--criterion {settings.criterion} goes with --against: a run alone is graded by fluency")
    told = {path: _read(path) for path in dict.fromkeys([*runs, *([against] if against else [])])}
    with make_client(settings, os.environ) as client:
        often = 0.5 if sys.stderr.isatty() else 30
        with tqdm(desc="judge", unit="question", mininterval=often, dynamic_ncols=True) as bar:
            client.on_trouble = lambda line: bar.set_postfix_str(line, refresh=sys.stderr.isatty())
            if against is None:
                reports = [grade_run(path, told[path], settings, client, bar) for path in told]
            else:
                pairs = [(path, told[path], against, told[against]) for path in dict.fromkeys(runs)]
                reports = [compare_runs(*pair, settings, client, bar) for pair in pairs]
    print((describe_grades if against is None else describe_pair)(reports))
    num_unanswered = sum(report["num_unanswered"] for report in reports)
    if num_unanswered:
        print(f"{num_unanswered} clips got no answer: give the same command again to ask only these", file=sys.stderr)
    return 1 if num_unanswered else 0


def make_client(settings: JudgeSettings, env: Mapping[str, str]) -> ChatClient:
    settings.request_fields()  # complains before anything is asked
    return ChatClient(
        settings.base_url,
        settings.key(env),
        key_name=settings.key_name or "--key-env",
        timeout_s=settings.timeout_s,
        retries=settings.retries,
        pace=Pace(settings.requests_per_minute),
    )


def grade_run(path: Path, told: Predictions, settings: JudgeSettings, client: ChatClient, bar: tqdm) -> dict:
    """Grade every caption of a run and write NAME_judge.json beside it."""
    rubric = load_rubric(settings.rubric)
    criterion = rubric.get(settings.criterion)
    captions = {key: row["result"] for key, row in told.rows.items()}
    asked = pointwise.questions(rubric, criterion, captions)
    judge = make_judge(path, settings, client)
    verdicts = ask_all(judge, asked, read_grade, settings, client, bar)
    report = {
        "run": str(path),
        "predictions_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        **facts(settings, client, pointwise.rubric_sha256(rubric, criterion)),
        **pointwise.summarize(captions, verdicts),
        **spent(judge, settings),
    }
    return write(beside(path, "judge.json"), report)


def compare_runs(
    path_a: Path,
    told_a: Predictions,
    path_b: Path,
    told_b: Predictions,
    settings: JudgeSettings,
    client: ChatClient,
    bar: tqdm,
) -> dict:
    """Compare two runs on the clips that both have, and write A_vs_B_judge.json beside the first."""
    rubric = load_rubric(settings.rubric)
    criterion = rubric.get(settings.criterion)
    name_a, name_b = names(path_a, path_b)
    clips = common_clips(told_a, told_b, name_a, name_b, needs_reference=criterion.needs_reference)
    judge = make_judge(path_a, settings, client)
    verdicts = ask_all(judge, pairwise.questions(rubric, criterion, clips), read_choice, settings, client, bar)
    report = {
        "a": name_a,
        "b": name_b,
        "runs": {"a": str(path_a), "b": str(path_b)},
        "only_in": {"a": len(told_a.rows) - len(clips), "b": len(told_b.rows) - len(clips)},
        **facts(settings, client, pairwise.rubric_sha256(rubric, criterion)),
        **pairwise.summarize(clips, verdicts),
        **spent(judge, settings),
    }
    by = "" if settings.criterion == JudgeSettings.criterion else f"_{settings.criterion}"
    return write(path_a.with_name(f"{name_a}_vs_{name_b}{by}_judge.json"), report)


def names(path_a: Path, path_b: Path) -> tuple[str, str]:
    """The runs' names; with their folders' where they are the same.

    Raises:
        UserError: it is one and the same file.
    """
    if path_a.resolve() == path_b.resolve():
        raise UserError(f"{path_a} against itself: name another run by --against")
    name_a, name_b = (path.stem.removesuffix("_infer") for path in (path_a, path_b))
    if name_a != name_b:
        return name_a, name_b
    return tuple(f"{path.resolve().parent.name}-{name_a}" for path in (path_a, path_b))


def common_clips(
    told_a: Predictions, told_b: Predictions, name_a: str, name_b: str, *, needs_reference: bool
) -> dict[str, tuple[str, str, str]]:
    """Clip -> (caption of A, caption of B, reference), in the order of A.

    Raises:
        UserError: no clip in common, or a criterion with reference and clips without, or with two different ones.
    """
    both = [key for key in told_a.rows if key in told_b.rows]
    if not both:
        raise UserError(f"{name_a} and {name_b} have no clip in common: compare runs over the same test set")
    clips, unlike = {}, []
    for key in both:
        a, b = told_a.rows[key], told_b.rows[key]
        reference = (a.get("annotation") or "").strip()
        if not reference or reference != (b.get("annotation") or "").strip():
            unlike.append(key)
        clips[key] = (a["result"], b["result"], reference)
    if needs_reference and unlike:
        raise UserError(
            f"{len(unlike)} clips have no reference, or another one in {name_b} than in {name_a}: {some(unlike)}. "
            "Judge by --criterion fluency, which needs none, or mend the predictions"
        )
    return clips


def make_judge(path: Path, settings: JudgeSettings, client: ChatClient) -> Judge:
    cache = AnswerCache(settings.cache or path.absolute().parent / "judge_cache")
    return Judge(client, cache, settings.request_fields(), settings.reasks)


def ask_all(
    judge: Judge,
    asked: dict[Hashable, list[dict]],
    read: Callable[[str], tuple],
    settings: JudgeSettings,
    client: ChatClient,
    bar: tqdm,
) -> dict[Hashable, Verdict]:
    """Put all questions, several at once, and show how far it is."""
    bar.reset(total=len(asked))

    def stop() -> None:
        if client.pace.stop():
            bar.write("stopping: waiting for the answers under way; what was answered is kept", file=sys.stderr)

    tasks = {key: lambda messages=messages: judge.decide(messages, read) for key, messages in asked.items()}

    def on_done(verdict: Verdict) -> None:
        bar.set_postfix_str("", refresh=False)  # the trouble told there is over
        bar.update()

    return work_off(tasks, settings.concurrency, stop=stop, on_done=on_done)


def facts(settings: JudgeSettings, client: ChatClient, rubric_sha256: str) -> dict:
    """What the grades depend on."""
    fields = settings.request_fields()
    return {
        "model": fields.pop("model"),
        "endpoint": client.base_url,
        "request": fields,
        "criterion": settings.criterion,
        "rubric_sha256": rubric_sha256,
    }


def spent(judge: Judge, settings: JudgeSettings) -> dict:
    usage = judge.usage
    return {"tokens": usage.tokens(), "cost": usage.cost(settings.input_price, settings.output_price)}


def write(path: Path, report: dict) -> dict:
    write_atomic(path, [json.dumps(report, indent=2) + "\n"])
    return {**report, "file": str(path)}


def _read(path: Path) -> Predictions:
    told = read_predictions(path)
    for line in told.describe():
        print(f"{path}: {line}", file=sys.stderr)
    return told
