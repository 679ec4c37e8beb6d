"""A video in, text out as it is spoken: frames -> pixels -> engine -> words. Used by `stream` and `eval`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from tokenizers.decoders import DecodeStream

from swwatch.data.budget import BUDGETS
from swwatch.data.pixels import FrameEncoder
from swwatch.data.prompt import prompt_ids
from swwatch.data.video import StepFrames
from swwatch.engine.choose import open_session
from swwatch.engine.endless import Window
from swwatch.engine.requests import Run, drive
from swwatch.engine.source import FileSource, Step
from swwatch.engine.trace import SimulatedClock, Spoken
from swwatch.model.cuda_graph_model import CudaGraphModel
from swwatch.model.loading import Loaded
from swwatch.policies.choose import Greedy
from swwatch.policies.speak import Speak, parse_schedule


@dataclass(frozen=True)
class Token(Spoken):
    """A spoken token with its text: a piece of a word, "" while a multi-byte character is incomplete."""

    text: str = ""


def narrate(loaded: Loaded, steps: Iterable[StepFrames], **options) -> Iterator[Token]:
    """Watch a stream and yield its narration token by token. Options as for `narration`."""
    return (event for event in drive(loaded.model, narration(loaded, steps, **options)) if isinstance(event, Token))


def narration(
    loaded: Loaded,
    steps: Iterable[StepFrames],
    *,
    question: str,
    system: str,
    schedule: str | Speak | None = None,
    max_new_tokens: int | None = 300,
    repetition_penalty: float = 1.15,
    stop_early: bool = False,
    clip_key: str = "",
    clock=None,
    engine: str = "serial",
    watcher=None,
    window: Window | None = None,
) -> Run:
    """The same as a coroutine that leaves the model to its driver: `requests.drive` for one, `batch.Batch` for many.

    Args:
        steps: two frames each, in order; the last may be marked or the iterable may simply end.
        schedule: by default the checkpoint's own; another one is the paper's disturbance test.
        clip_key: seeds random schedules per clip; the video id.
        clock: has now() and arrive(at_s) in stream seconds; by default a SimulatedClock. Resizing and normalising
            count as the model's own time; decoding a file does not, for it stands in for a camera.
        engine: of engine.choose.ENGINES.
        watcher: of that engine, see `engine.choose.open_watcher`.
        window: what stays in view of a stream without end; None: everything.
    Yields:
        Requests, every Token as soon as it is spoken, and Watched as steps are in.
    """
    clock = clock or SimulatedClock()
    encoder = FrameEncoder(loaded.processor.video_processor, BUDGETS[loaded.settings.pixel_budget])
    schedule = parse_schedule(schedule or loaded.settings.schedule).for_clip(clip_key)
    session = open_session(
        engine,
        loaded.model,
        prompt_ids(loaded.tokenizer, system, question),
        watcher=watcher,
        schedule=schedule,
        choose=Greedy(max_new_tokens=max_new_tokens, penalty=repetition_penalty, stop_early=stop_early),
        clock=clock,
        window=window,
    )

    def encode(step: StepFrames) -> Step:
        return Step(*encoder.encode(step.frames, step.num_frames), step.arrival_s, step.last)

    # bursts and stalls hold frames back
    arriving = (replace(step, arrival_s=schedule.arrival_s(step.step, step.arrival_s)) for step in steps)
    yield from with_text(session.run(FileSource(arriving, encode, clock)), loaded.tokenizer)


def with_text(run: Run, tokenizer) -> Run:
    """The same run with a Token for every Spoken; requests, answers and other events pass through."""
    words, answer = DecodeStream(skip_special_tokens=True), None
    while True:
        try:
            event = run.send(answer)
        except StopIteration:
            return
        if isinstance(event, Spoken):
            event = Token(**vars(event), text=words.step(tokenizer.backend_tokenizer, event.token_id) or "")
        answer = yield event


def quicken(
    loaded: Loaded,
    first: StepFrames,
    *,
    question: str,
    system: str,
    num_steps: int,
    max_new_tokens: int = 300,
    warm: bool = False,
) -> Loaded:
    """The same model on the fast path (model.cuda_graph_model), with room for one narration of frames like `first`.

    Args:
        num_steps: the most that will be watched.
        warm: prepare now for what a session of the checkpoint's schedule asks for step by step, so that its first
            seconds are no slower than others. Takes a while on a GPU, and is for nothing elsewhere.
    Raises:
        UserError: the model is spread over devices, or its layers are of a kind that the fast path does not have.
    """
    encoder = FrameEncoder(loaded.processor.video_processor, BUDGETS[loaded.settings.pixel_budget])
    _, grid = encoder.encode(first.frames, first.num_frames)
    num_video = encoder.tokens_per_step(*first.frames.shape[1:3], first.num_frames)
    num_prompt, markup = len(prompt_ids(loaded.tokenizer, system, question)), loaded.markup
    watched = num_prompt + num_steps * num_video + len(markup.suffix)
    model = CudaGraphModel(loaded.model, watched, len(markup.header) + max_new_tokens)
    if warm:
        riding = -(-num_video // parse_schedule(loaded.settings.schedule).k)
        model.warm_up([(1,), (len(markup.header),), (num_video,), (riding + 1,)], [grid])
    return replace(loaded, model=model)


def caption_of(tokens: Iterable[Token]) -> str:
    """The narration as one string, stripped."""
    return "".join(token.text for token in tokens).strip()
