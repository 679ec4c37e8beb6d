"""`swwatch commentary judge`: compare a run with others, write scores, a summary and a table."""

import json
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

from swwatch.data.annotations import encode_line, write_atomic
from swwatch.errors import UserError
from swwatch.evaluate.commentary import match, page
from swwatch.evaluate.commentary.events import read_events, read_predictions
from swwatch.evaluate.commentary.games import read_games, read_said, read_segments, segments_of
from swwatch.evaluate.commentary.match import Pair
from swwatch.evaluate.commentary.settings import CommentaryCompareSettings
from swwatch.evaluate.commentary.store import trace_of
from swwatch.evaluate.commentary.texts import means, text_between
from swwatch.evaluate.judge.session import JudgeSession, exit_code, names
from swwatch.evaluate.run_files import objects_in, read_object
from swwatch.judge import pairwise
from swwatch.judge.rubric import TIE, read_choice
from swwatch.paths import only_one_writes

EQUAL = "equal"  # what the benchmark of games calls as many votes for either


def compare_with_all(settings: CommentaryCompareSettings) -> int:
    """Compare; returns 1 where the endpoint left pairs unanswered."""
    run, task = settings.run, settings.benchmark
    settings = replace(settings, criterion=settings.criterion or task.criterion)
    read = _pairs_of_games if task.of_games else _pairs_of_events
    called = names_of(run, settings.other)  # mistakes are told before anything is asked
    opponents = {other: read(settings, other) for other in called}
    path = run.with_name(f"{run.stem}_commentary.md")
    with only_one_writes(path), JudgeSession(settings) as session:
        reports = [compare_with(other, called[other], *read, session) for other, read in opponents.items()]
        table = page.markdown(task, reports, [_made(path) for path in (run, *opponents)])
        write_atomic(path, [table])
    print(table, end="")
    print(f"table in {path}, scores and summaries beside it")
    return exit_code(reports, "pairs")


def _made(run: Path) -> dict:
    """How a run was made, as its run.json and its trace tell; the file's name for what other programs wrote."""
    about, trace = read_object(run.with_name(f"{run.stem}_run.json")).get("about", {}), trace_of(run)
    lines = [line for _, line in objects_in(trace, "job", "num_frames", "num_tokens", "took_s")]
    try:
        return {"made": {"model": run.stem, **about}, **means(lines)}
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{trace} is no trace of a run ({error}): remove it, and what it tells is shown as -"
        ) from error


def names_of(run: Path, others: list[Path]) -> dict[Path, tuple[str, str]]:
    """Other -> what the run and it are called; files of one name get that of their folder before it.

    Raises:
        UserError: the run against itself, or two others that cannot be told apart.
    """
    called = {other: names(run, other) for other in dict.fromkeys(others)}
    times = Counter(name for _, name in called.values())
    called = {
        other: (a, f"{other.resolve().parent.name}-{b}" if times[b] > 1 else b) for other, (a, b) in called.items()
    }
    if len({name for _, name in called.values()}) < len(called):
        raise UserError("two files of --other have the same name and folder name: rename one")
    return called


def _pairs_of_games(settings: CommentaryCompareSettings, other: Path) -> tuple[list[Pair], dict]:
    run, data, segments_file = settings.run, settings.data, settings.segments
    task = settings.benchmark
    start_s = task.segments["begin_s"] if settings.begin is None else settings.begin
    least_words = task.segments["least_words"] if settings.least_words is None else settings.least_words
    if segments_file is None:
        games = read_games(data, task)
        segments = segments_of(games, start_s, least_words, task)
        mended = sum(game.transcript.mended for game in games)
    else:
        segments, mended = read_segments(segments_file, least_words, task)
    if not segments:
        raise UserError(
            f"{segments_file or data} has no segment of {least_words} words from {start_s:g} s on: "
            "lower --least-words or --begin"
        )
    said = [read_said(path) for path in (run, other)]
    pairs = []
    for segment in segments:
        a, b = (
            text_between(one[segment.video], segment.start_s, segment.end_s) if segment.video in one else None
            for one in said
        )
        row = {"video": segment.video, "title": segment.title}
        row |= {"start": int(segment.start_s), "end": int(segment.end_s)}
        pairs.append(Pair(segment.key, segment.video, a, b, "\n".join(word.text for word in segment.words), row))
    _check_common(pairs, run, other, segments_file or data)
    return pairs, {"num_mended_words": mended}


def _pairs_of_events(settings: CommentaryCompareSettings, other: Path) -> tuple[list[Pair], dict]:
    run, data = settings.run, settings.data
    events, said = read_events(data, settings.benchmark), [read_predictions(path) for path in (run, other)]
    pairs = [
        Pair(
            event.key,
            event.video,
            *(one.get(event.key) for one in said),
            event.reference,
            {"video_event_id": event.key},
        )
        for event in events
    ]
    _check_common(pairs, run, other, data)
    known = {event.key for event in events}
    return pairs, {"num_foreign": {side: len(one.keys() - known) for side, one in zip("AB", said, strict=True)}}


def _check_common(pairs: list[Pair], run: Path, other: Path, data: Path) -> None:
    """Raises: UserError: a file about other videos, which would lose each comparison without being shown once."""
    for path, texts in ((run, [pair.a for pair in pairs]), (other, [pair.b for pair in pairs])):
        if all(text is None for text in texts):
            raise UserError(f"{path} says nothing about what {data} holds, such as {pairs[0].key}: do names agree?")


def compare_with(other: Path, called: tuple[str, str], pairs: list[Pair], about: dict, session: JudgeSession) -> dict:
    """Ask about all pairs, and write A_vs_B_scores.jsonl and A_vs_B_summary.json beside the run."""
    settings, rubric, criterion = session.settings, session.rubric, session.criterion
    ties, run, (name_a, name_b) = settings.benchmark.has_ties, settings.run, called
    questions = match.questions(rubric, criterion, pairs, ties=ties)
    verdicts, cost = session.ask(run, questions, partial(read_choice, ties=ties))
    found, failed = match.outcomes(pairs, verdicts)
    stem = f"{name_a}_vs_{name_b}"
    scores = run.with_name(f"{stem}_scores.jsonl")
    write_atomic(scores, [encode_line(score_row(outcome, settings.model, ties=ties)) for outcome in found])
    report = {
        "task": settings.benchmark.name,
        "a": name_a,
        "b": name_b,
        "runs": {"a": str(run), "b": str(other)},
        **session.facts(pairwise.rubric_sha256(rubric, criterion, ties=ties)),
        **about,
        **match.summarize(found, failed, ties=ties),
        **cost,
        "scores": scores.name,
    }
    write_atomic(run.with_name(f"{stem}_summary.json"), [json.dumps(report, indent=2) + "\n"])
    return report


def score_row(outcome: match.PairOutcome, model: str, *, ties: bool) -> dict:
    """A row of the scores, in the form of the benchmark's own files."""
    if ties:
        return {**outcome.pair.facts, "ab_winner": outcome.ab, "ba_winner": outcome.ba}
    judge = {"model": model, "vote_ab": outcome.ab, "vote_ba": outcome.ba}
    winner = EQUAL if outcome.winner == TIE else outcome.winner
    return {**outcome.pair.facts, "winner": winner, "votes": outcome.votes, "judge": judge}
