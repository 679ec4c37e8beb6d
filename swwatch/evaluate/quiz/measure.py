"""The measuring of a quiz: the model, and every question answered once, whatever happens on the way."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

from tqdm import tqdm

from swwatch.data.budget import BUDGETS
from swwatch.engine.door import pace_of
from swwatch.errors import UserError
from swwatch.evaluate.claims import bar_options, check_skips, claimed
from swwatch.evaluate.model import circumstances, identity, load_model
from swwatch.evaluate.quiz.asking import Answered, Plain
from swwatch.evaluate.quiz.items import Item
from swwatch.evaluate.quiz.itself import Itself
from swwatch.evaluate.quiz.rounds import IN_TIME
from swwatch.evaluate.quiz.scorers import SCORERS, strict
from swwatch.evaluate.quiz.settings import QuizSettings
from swwatch.evaluate.quiz.streaming import Streaming
from swwatch.evaluate.quiz.tasks import Form
from swwatch.evaluate.results import Writer
from swwatch.launch.ranks import SingleProcess
from swwatch.model.checks import saved_settings
from swwatch.model.fingerprint import file_sha256
from swwatch.policies.speak import check_schedule

Asker = Plain | Streaming | Itself


def open_asker(settings: QuizSettings, ranks: SingleProcess) -> Asker:
    """A model that is ready to be asked; one that names no variant is a plain causal one, unless it is to stream."""
    variant, form = settings.variant, settings.form
    if variant is None and not saved_settings(settings.model):
        if settings.streaming:
            raise UserError(f"{settings.model} does not say how it streams: give --variant streamingvlm or livecc")
        variant = "origin"
    loaded = load_model(settings, settings.model, ranks, variant=variant)
    if settings.unasked:
        if settings.schedule is not None:
            schedule = check_schedule(settings.schedule, loaded.settings.variant)
            schedule.check_trained(loaded.settings.schedule, settings.model)
            loaded = replace(loaded, settings=replace(loaded.settings, schedule=schedule))
        unprompted = replace(form, name="unasked", prompts=settings.benchmark.instructions)
        return Itself(loaded, unprompted, pace_of(loaded.settings))
    if not settings.streaming:
        policy = settings.positions or "mrope_full"
        return Plain(loaded, form, settings.budget, policy, settings.max_frames, settings.nframes)
    options = {"policy": settings.positions, "eviction": settings.eviction}
    if form.reply:
        options["choose"] = "greedy:1"  # the likeliest tokens, as elsewhere: no draws of the system's own
    return Streaming(loaded, form, BUDGETS[loaded.settings.pixel_budget], **options)


def describe_run(settings: QuizSettings, asker: Asker) -> dict:
    """What the answers depend on (`settings`), and where things lay (`about`)."""
    shown = asker.describe()
    if settings.subtitles and not asker.streams:
        shown["how"] += ", with subtitles"
    if settings.context is not None:
        shown["context_s"] = settings.context
    if not settings.benchmark.averages:
        shown["how"] += f", {'own' if settings.own_history else 'true'} history"
    if settings.only:
        shown["only"] = settings.only
    if settings.benchmark.moment and not settings.unasked:
        shown["how"] += f", asked every {settings.every:g} s"
    data = settings.data
    return {
        "settings": {
            "task": settings.benchmark.name,
            **shown,
            "streaming": settings.streaming,
            "subtitles": bool(settings.subtitles),
            "pixels": asdict(asker.encoder.budget),
            **identity(settings.model, asker.loaded),
            "data_sha256": file_sha256(*(sorted(data.rglob("*.json")) if data.is_dir() else [data])),
            "prompt": asker.form.version,
            "wording": asdict(asker.form),
        },
        "about": {
            "model": settings.model,
            "data": str(data),
            "videos": None if settings.videos is None else str(settings.videos),
            **circumstances(asker.loaded),
        },
    }


def answer_all(
    items: list[Item],
    results: Writer,
    *,
    asker: Asker,
    locate: Callable[[Item], Path],
    ranks: SingleProcess | None = None,
    max_bad_fraction: float = 0.01,
) -> None:
    """Answer the questions that are not done yet, writing each as soon as it is answered.

    Args:
        items: in the order of evaluation.
        results: where this process writes; `done` says what is done already.
        asker: answers the questions of a unit; several processes take the next unit when they are through with one.
        locate: the file of an item's video; raises UserError.
    Raises:
        UserError: more questions than allowed could not be asked.
    """
    ranks = ranks or SingleProcess()
    left = [item for item in items if item.key not in results.done]
    units = [[item] for item in left if not item.is_ordered]  # which `locate` refuses, alone
    units += asker.units([item for item in left if item.is_ordered])
    num_before = len(results.done)
    bar = tqdm(desc="questions", unit="question", initial=num_before, total=len(items), **bar_options(ranks))

    def end(item: Item, path: Path | None, got: Answered | UserError) -> None:
        if isinstance(got, Answered):
            took = {} if got.took_s is None else {"took_s": round(got.took_s, 4)}
            results.add(_prediction(item, got, asker.form), _trace(got), **took)
        else:
            results.skip(item.key, None if path is None else str(path), str(got))
            listed = results.skipped if ranks.size == 1 else results.skipped.with_name("rank*_skipped.jsonl")
            check_skips(ranks.add("skipped"), len(items), max_bad_fraction, listed, got)
        bar.update(num_before + ranks.add("ended") - bar.n)

    def answers(unit: list[Item]) -> Iterator[tuple[Item, Path | None, Answered | UserError]]:
        """Every question of a unit once: an error that ends the unit stands for all that are left of it."""
        left, path = {item.key: item for item in unit}, None
        try:
            path = locate(unit[0])
            for item, got in asker.answers(unit, path):
                del left[item.key]
                yield item, path, got
        except UserError as error:
            yield from ((item, path, error) for item in left.values())

    with bar:
        for unit in claimed(units, ranks):
            for item, path, got in answers(unit):
                end(item, path, got)


def _prediction(item: Item, got: Answered, form: Form) -> dict:
    row = {
        "video_id": item.key,
        "video": item.video,
        "group": item.group,
        "tags": list(item.tags),
        "choices": list(item.choices),
        "answer": item.answer,
        "result": got.said,
        "correct": got.said == item.answer,
        "num_frames": got.num_frames,
        "seconds": list(got.seconds),
    }
    if got.num_tokens:
        row["num_tokens"] = got.num_tokens
    if item.rounds:
        answers = "\n".join(one.answer for one in item.rounds)
        facts = {name: row[name] for name in ("video_id", "video", "group", "result", "num_frames", "seconds")}
        return facts | {"annotation": answers, "num_tokens": got.num_tokens, **got.more}
    if item.moment:
        row |= {"choices": [], "correct": got.more["when"] == IN_TIME, **got.more}
        if item.moment.output:
            row["official"] = row["correct"] and item.moment.output in got.said
            row["correct"] = row["correct"] and strict(got.said, item.moment.output)
    elif form.reply:
        row["correct"] = strict(got.said, item.answer)
        row["official"] = SCORERS[form.scorer](got.said, item.answer, item.choices)
    return row


def _trace(got: Answered) -> list[dict]:
    if not got.logits:
        return [{"text": text.partition(" ")[2], "token_id": token} for text, token in got.tokens.items()]
    return [{"text": choice, "token_id": got.tokens[choice], "logit": logit} for choice, logit in got.logits.items()]
