"""The measuring of `swwatch commentary generate`: a model comments on games or events, one after the other."""

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from swwatch.data.annotations import resolve_video
from swwatch.data.budget import BUDGETS
from swwatch.data.turns.dataset import training_budget
from swwatch.data.video import VideoError
from swwatch.errors import UserError
from swwatch.evaluate.commentary.events import CommentaryEvent, read_events
from swwatch.evaluate.commentary.games import Game, merged, read_games, tidy_games
from swwatch.evaluate.commentary.settings import GenerateSettings
from swwatch.evaluate.commentary.speaking import Speaker, comment_event, comment_game
from swwatch.evaluate.commentary.store import Store
from swwatch.evaluate.commentary.texts import Utterance, measured
from swwatch.evaluate.model import identity, load_model, policies_of
from swwatch.evaluate.provenance import named
from swwatch.evaluate.tasks import own_files
from swwatch.launch.ranks import SingleProcess
from swwatch.metrics.machine import commit
from swwatch.model.checks import saved_settings
from swwatch.model.fingerprint import file_sha256
from swwatch.model.repeat import repeat_of
from swwatch.policies.choose import parse_choose
from swwatch.rules import turn_positions
from swwatch.rules.systems import COMMENTING, System, get
from swwatch.rules.variants import TURNS

OWN_RUN = ("positions", "shared_pixels", "spread_frames", "base_model")  # settings that are told where they are given

Rows = Iterable[tuple[dict, list[Utterance]]]  # a row, and what was said in it


def comment_all(settings: GenerateSettings, ranks: SingleProcess) -> None:
    """Comment on all games or events that are not done yet, and at rank 0 put the rows into the order of the data."""
    work = (Games if settings.benchmark.of_games else Events)(settings)
    speaker = open_speaker(settings, ranks)
    facts, repeat = describe_run(settings, speaker) | work.facts, None
    if not ranks.rank:
        own = own_files(settings.task, settings.wording)
        repeat = repeat_of(
            ["commentary", "generate"],
            settings,
            settings.output.with_name(f"{settings.output.stem}_run.json"),
            results=[settings.output.name],
            inputs={"data": settings.data, "videos": settings.videos, **own},
            models={settings.model: facts["model_fingerprint"]},
            read={settings.data: facts["data_sha256"]},
        )
    about = about_run(settings, speaker, facts["model_fingerprint"])
    with Store(
        settings.output, facts, ranks, work.tidy, repeat=repeat, about=about, restart=settings.restart
    ) as store:
        before: dict[str, list[dict]] = {}
        for row in store.rows:
            before.setdefault(work.key_of(row), []).append(row)
        if not ranks.rank:
            done = f", {len(before)} of them begun or done before" if before else ""
            print(f"{settings.task}: {len(work.jobs)} {work.noun}{done} -> {settings.output}", flush=True)
        while (number := ranks.add("next") - 1) < len(work.jobs):
            job = work.jobs[number]
            try:
                path = find_video(job.video, settings)
                rows = work.rows(speaker, job, path, before.get(job.key, []), store.state_path(job.key))
                for row, items in rows:
                    store.add(row, measured(job.key, work.name_of(row), items))
                    print(f"{number + 1} of {len(work.jobs)}: {job.key}{work.reached(row)}", flush=True)
            except VideoError as error:
                ranks.add("bad")
                print(f"left out: {job.key}: {error}", file=sys.stderr)
        if ranks.rank:
            ranks.leave()
            return
        ranks.wait_for_all()
        place = {job.key: number for number, job in enumerate(work.jobs)}
        rows = store.complete(
            lambda rows: sorted(work.finish(rows), key=lambda row: place.get(work.key_of(row), len(place)))
        )
    if not rows:
        raise UserError(f"nothing could be commented on: all {len(work.jobs)} videos were left out, see above")
    num_bad = ranks.add("bad", 0)
    bad = f"; {num_bad} left out for their video, see above: they lose in `judge`" if num_bad else ""
    print(f"{len(rows)} rows in {settings.output}{bad}")


class Games:
    """The work of inf-streams."""

    noun, tidy, finish = "games", staticmethod(tidy_games), staticmethod(merged)

    def __init__(self, settings: GenerateSettings):
        self.jobs = read_games(settings.data, settings.benchmark)[: settings.max_count]
        query = settings.form.game if settings.query is None else settings.query
        self.settings, self.facts = replace(settings, query=query), {"start_s": settings.start_s}
        self.facts |= {"end_s": settings.end, "chunk_s": settings.chunk, "query": query}

    def key_of(self, row: dict) -> str:
        return row["video"]

    def name_of(self, row: dict) -> str:
        return f"{row['video']}:{row['chunk_start']:g}"

    def reached(self, row: dict) -> str:
        return f" up to {row['chunk_end']:g} s"

    def rows(self, speaker: Speaker, job: Game, path: Path, before: list[dict], state: Path) -> Rows:
        return comment_game(speaker, job, path, self.settings, before, state)


class Events:
    """The work of livesports-cc."""

    noun = "events"

    def __init__(self, settings: GenerateSettings):
        self.jobs = read_events(settings.data, settings.benchmark)[: settings.max_count]
        self.wording = settings.form
        self.facts = {"wording": self.wording.facts()}

    def key_of(self, row: dict) -> str:
        return f"{row['video_id']}_{row['event_id']}"

    name_of = key_of

    def reached(self, row: dict) -> str:
        return ""  # an event is one row

    def tidy(self, rows: Iterable[dict]) -> list[dict]:
        return list({self.key_of(row): row for row in rows}.values())

    finish = tidy

    def rows(self, speaker: Speaker, job: CommentaryEvent, path: Path, before: list[dict], state: Path) -> Rows:
        if not before:
            yield comment_event(speaker, job, path, self.wording)


def find_video(video: str, settings: GenerateSettings) -> Path:
    """Raises: VideoError: there is no such file, which is one video less, and no reason to stop."""
    try:
        return resolve_video(video, settings.data, settings.videos)
    except UserError as error:
        raise VideoError(video, str(error)) from error


def open_speaker(settings: GenerateSettings, ranks: SingleProcess) -> Speaker:
    """The model as the flags, the task's recipe and the system's row want it."""
    comments = " or ".join(COMMENTING)
    name = settings.system or saved_settings(settings.model).get("variant")
    if name is None:
        raise UserError(f"{settings.model} does not say how it streams: give --system {comments}")
    if name not in TURNS:
        raise UserError(f"{settings.model} is trained as {name!r}, which does not stream in turns: give --system")
    system: System = get(name)
    if system.thinks:
        raise UserError(f"{name} thinks and answers, and makes no commentary: take {comments}")
    loaded = load_model(settings, settings.model, ranks, variant=settings.system)
    check_stretches(settings, loaded.settings.step_s)
    recipe = settings.benchmark.recipes.get(name, {})
    choose = loaded.settings.choose or parse_choose(recipe.get("choose", loaded.settings.own_choose))
    system = replace(system, first_s=recipe.get("first_s", system.first_s))
    if settings.sample is not None and settings.sample != choose.draws:
        choose = replace(choose.drawing(True), temperature=1.0) if settings.sample else choose.drawing(False)
    options = {name: getattr(settings, name) for name in ("max_new_tokens", "temperature", "seed")}
    options |= {"penalty": settings.repetition_penalty}
    options = {name: value for name, value in options.items() if value is not None and name in vars(choose)}
    turn_positions.of(system, settings.positions)
    budget = training_budget(name) if settings.shared_pixels else BUDGETS[loaded.settings.pixel_budget]
    how = {"policy": settings.positions, "spread": settings.spread_frames, "base_model": settings.base_model}
    return Speaker(loaded, system, replace(choose, **options), budget, **how)


def check_stretches(settings: GenerateSettings, step_s: float) -> None:
    """Raises UserError: a game would be cut within a step."""
    for flag, seconds in {"--chunk": settings.chunk, "--save-every": settings.save_every}.items():
        if settings.benchmark.of_games and seconds is not None and not (seconds / step_s).is_integer():
            raise UserError(f"{flag} {seconds} cuts a step of {step_s:g} s: give a multiple of it")


def describe_run(settings: GenerateSettings, speaker: Speaker) -> dict:
    """What the words depend on."""
    return {
        "system": speaker.system.name,
        **policies_of(speaker.loaded.settings),
        "choose": str(speaker.choose),
        "pixel_budget": speaker.loaded.settings.pixel_budget,
        **identity(settings.model, speaker.loaded),
        "task": settings.benchmark.name,
        "data_sha256": file_sha256(settings.data),
        **{name: getattr(settings, name) for name in OWN_RUN if getattr(settings, name)},
    }


def about_run(settings: GenerateSettings, speaker: Speaker, fingerprint: str) -> dict:
    """How the words were made, for the closing table of a report."""
    cut = "all" if settings.chunk is None else f"{settings.chunk} s"
    return {
        "model": named(settings.model, fingerprint),
        "how": f"{speaker.system.name}, {speaker.choose.name}",
        "prompt": settings.form.version if settings.query is None else "query",
        "context": cut if settings.benchmark.of_games else "event",
        "policy": policies_of(speaker.loaded.settings).get("keep", speaker.loaded.settings.own_keep.name),
        "commit": commit() or "-",
    }
