"""The measuring of an evaluation: the model captions the clips, alone or with other processes, and is scored."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from swwatch.data.annotations import resolve_video
from swwatch.data.prompt import Prompts, load_prompts
from swwatch.data.video import iter_steps
from swwatch.engine.requests import Run
from swwatch.errors import UserError
from swwatch.evaluate.caption.clips_at_once import clips_at_once
from swwatch.evaluate.caption.runner import ClipRequest, Unreadable, run
from swwatch.evaluate.caption.scoring import learned_metrics, score_run
from swwatch.evaluate.caption.settings import EvalSettings
from swwatch.evaluate.model import circumstances, identity, load_model, policies_of
from swwatch.evaluate.results import Writer, shared
from swwatch.evaluate.run_files import beside, read_run
from swwatch.launch.ranks import SingleProcess
from swwatch.model.fingerprint import file_sha256
from swwatch.model.loading import Loaded
from swwatch.model.repeat import repeat_of
from swwatch.narrate.words import narration
from swwatch.policies.choose import Greedy
from swwatch.policies.see import ALL
from swwatch.rules import systems
from swwatch.rules.variants import is_chat


def evaluate(settings: EvalSettings, records: list[dict], ranks: SingleProcess) -> None:
    """Narrate the test set, alone or with other ranks, and score it at rank 0."""
    learned = [] if ranks.rank else learned_metrics(settings)  # first: what it lacks is told before hours of work
    loaded = load_model(settings, settings.model, ranks)
    prompts, variant = load_prompts(), loaded.settings.variant
    limits = {"max_frames": settings.max_frames, "max_new_tokens": settings.max_new_tokens}
    at_once = clips_at_once(settings.clips_at_once, loaded, **limits)

    def locate(record_path: str | None) -> Path:
        try:
            return resolve_video(record_path, settings.data_path, settings.img_root)
        except UserError as error:
            raise Unreadable(str(error)) from error

    def work(results: Writer) -> None:
        run(
            records,
            results,
            locate=locate,
            narrator=lambda clip: narrate_clip(clip, loaded, settings, prompts),
            question=prompts.eval_question,
            task=settings.label,
            max_bad_fraction=settings.max_bad_fraction,
            model=loaded.model,
            clips_at_once=at_once,
            ranks=ranks,
        )

    path, keys = settings.predictions_path(variant), [str(record["video_id"]) for record in records]
    facts = describe_run(settings, loaded, prompts)
    facts["about"] |= {"clips_at_once": at_once, "num_processes": ranks.size}
    if not ranks.rank:
        facts["repeat"] = repeat_of(
            ["eval"],
            settings,
            beside(path, "run.json"),
            results=[path.name, beside(path, "metrics.json").name],
            inputs={"data": settings.data_path, "videos": videos_of(records, locate)},
            models={settings.model: facts["settings"]["model_fingerprint"]},
            read={settings.data_path: facts["settings"]["data_sha256"]},
            cls=EvalSettings,
        )
    with shared(path, facts, keys, work, ranks, restart=settings.restart, label=variant) as results:
        if results is not None:
            score_run(read_run(path), records, learned)


def videos_of(records: list[dict], locate: Callable[[str | None], Path]) -> Iterator[Path]:
    """The files of all records that have one; who lacks one is told when its turn comes."""
    for record in records:
        with suppress(Unreadable):
            yield locate(record.get("video_path"))


def narrate_clip(clip: ClipRequest, loaded: Loaded, settings: EvalSettings, prompts: Prompts) -> Run:
    """Watch one clip and speak. Words are chosen as the checkpoint, or its form, does by itself, but for a penalty
    that was given; --max-new-tokens limits the answer, or the turns of a chat system.

    Raises:
        Unreadable: its video cannot be decoded, is too long, or has a shape that the pixel budget cannot take.
    """
    how = {"limit": settings.max_new_tokens}
    if settings.repetition_penalty is not None:
        how["repetition_penalty"] = settings.repetition_penalty
    if not is_chat(loaded.settings.variant):
        how["schedule"] = settings.schedule
    try:
        yield from narration(
            loaded,
            iter_steps(clip.video, max_frames=settings.max_frames, reader=settings.reader, fps=loaded.settings.fps),
            question=clip.question,
            system=prompts.system,
            clip_key=clip.key,
            **how,
        )
    except UserError as error:  # not VideoError alone: a picture may be too narrow for the pixel budget
        raise Unreadable(str(error)) from error


def describe_run(settings: EvalSettings, loaded: Loaded, prompts: Prompts) -> dict:
    """What the results depend on (`settings`: results are only continued under equal ones) and, for the reader, where
    things lay (`about`). --max-count is in neither: a run may be extended."""
    data, own = settings.data_path, loaded.settings
    facts = {
        "variant": own.variant,
        "schedule": str(own.schedule),
        "pixel_budget": own.pixel_budget,
        **identity(settings.model, loaded),
        "data_sha256": file_sha256(data),
        "task": settings.label,
        "system": prompts.system,
        "question": prompts.eval_question,
        "max_frames": settings.max_frames,
        "max_new_tokens": settings.max_new_tokens,
        "repetition_penalty": settings.repetition_penalty or Greedy.penalty,
    }
    if is_chat(own.variant):
        facts |= {"schedule": None, "repetition_penalty": settings.repetition_penalty}
        facts["choose"] = systems.get(own.variant).choose
    facts |= policies_of(own)
    if own.choose is not None:
        facts["repetition_penalty"] = settings.repetition_penalty
    if own.see != ALL:  # a run of before knows nothing of it
        facts["see"] = str(own.see)
    if settings.reader != EvalSettings.reader:  # nor of this
        facts["reader"] = settings.reader
    about = {
        "model": settings.model,
        "data": str(data),
        "img_root": None if settings.img_root is None else str(settings.img_root),
        **circumstances(loaded),
    }
    return {"settings": facts, "about": about}
