"""A video in, text out as it is spoken: frames -> pixels -> session -> words. Narrations and chat turns alike."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tokenizers.decoders import DecodeStream

from swwatch.data.prompt import ask_ids, load_prompts, prompt_ids
from swwatch.data.video import StepFrames
from swwatch.engine.base import BaseSession
from swwatch.engine.door import open_stream
from swwatch.engine.requests import Run, drive, relay
from swwatch.engine.source import Ask, FileSource, Step, StepEncoder
from swwatch.engine.trace import Reflected, Said, SimulatedClock, Spoken
from swwatch.model.cuda_graph_model import CudaGraphModel
from swwatch.model.loading import Loaded
from swwatch.policies.choose import LIMIT
from swwatch.policies.speak import parse_schedule

CHOOSE = {"max_new_tokens": "max_new_tokens", "repetition_penalty": "penalty", "stop_early": "stop_early"}


@dataclass(frozen=True)
class Token(Spoken):
    """A spoken token with its text: a piece of a word, "" while a multi-byte character is incomplete."""

    text: str = ""


@dataclass(frozen=True)
class Thought(Reflected):
    """A token that was thought, with its text as a `Token` has it."""

    text: str = ""


@dataclass(frozen=True)
class Turn:
    """The end of a chat turn: what was said about some seconds; "" is silence. `t_s` is when it ended, stream time.

    Attributes:
        thought: it is a thought, and not said to anybody.
        wrong_end: the token that it ended with, where the form wants another.
    """

    start_s: float
    end_s: float
    text: str
    t_s: float = field(default=0.0, compare=False)
    thought: bool = False
    wrong_end: str | None = None


def narrate(loaded: Loaded, steps: Iterable[StepFrames], **options) -> Iterator[Token]:
    """Watch a stream and yield its words token by token. Options as for `narration`."""
    return (event for event in drive(loaded.model, narration(loaded, steps, **options)) if isinstance(event, Token))


def narration(
    loaded: Loaded,
    steps: Iterable[StepFrames],
    *,
    clip_key: str = "",
    clock=None,
    encode=None,
    questions: Iterable[tuple[float, str]] = (),
    **options,
) -> Run:
    """The same as a coroutine that leaves the model to its driver: `requests.drive` for one, `batch.Batch` for many.

    Args:
        steps: two frames each, in order; the last may be marked or the iterable may simply end.
        clip_key: seeds random schedules per clip; the video id.
        clock: has now() and arrive(at_s) in stream seconds; by default a SimulatedClock. Resizing and normalising
            count as the model's own time; decoding a file does not, for it stands in for a camera.
        encode: makes a Step of a StepFrames; by default the checkpoint's StepEncoder.
        questions: (seconds, what is asked then), in effect from the next step on.
        options: of engine.door.open_stream; and max_new_tokens, repetition_penalty, stop_early, where they differ from
            the form's own.
    Yields:
        Requests, every Token as soon as it is spoken, every Thought as soon as it is thought, Watched as steps are in,
        Asked as questions take effect, Decided where the schedule decides, and a Turn at the end of each.
    """
    clock = clock or SimulatedClock()
    choose = {CHOOSE[name]: options.pop(name) for name in CHOOSE.keys() & options.keys()}
    if choose:
        options["choose"] = choose
    session = open_stream(loaded, key=clip_key, clock=clock, **options)
    # bursts and stalls hold frames back
    arriving = (replace(step, arrival_s=session.arrival_s(step.step, step.arrival_s)) for step in steps)
    asks = [
        (at_s, Ask(tuple(ask_ids(loaded.tokenizer, text, loaded.markup)), text)) for at_s, text in sorted(questions)
    ]
    yield from watching(session, arriving, encode or StepEncoder(loaded), loaded.tokenizer, asks)


def watching(session: BaseSession, steps: Iterable[Any], encode: Callable[[Any], Step], tokenizer, asks=()) -> Run:
    """An open session watches a stream to its end, or goes on with another part of one. Yields as `narration`.

    Args:
        steps, encode, asks: see FileSource.
    """
    return with_text(session.run(FileSource(steps, encode, session.clock, asks)), tokenizer)


def with_text(run: Run, tokenizer) -> Run:
    """The same run with a Token for every Spoken, a Thought for every Reflected and a Turn for every Said; all else
    passes through."""
    return relay(run, Detokenizer(tokenizer))


class Detokenizer:
    """What turns one session's events into those with text. Where a narration gives one answer after another, a space
    stands between them: the first token of the next one begins with it.

    Attributes:
        open_ids: of words and of thoughts, tokens since the last text; a character that is not whole yet, or an answer
            that is over, goes on from them.
    """

    def __init__(self, tokenizer, open_ids: Mapping[str, Iterable[int]] | None = None):
        self._tokenizer, self._decodes = tokenizer, tokenizer.backend_tokenizer
        self._end = tokenizer.eos_token_id
        self._decoding, self.open_ids = {}, {}
        self._begin("words", "thoughts")
        for what, ids in (open_ids or {}).items():
            for token_id in ids:
                self._text(what, token_id)

    def __call__(self, event: Any) -> Any:
        if isinstance(event, Spoken):
            return Token(**vars(event), text=self._text("words", event.token_id))
        if isinstance(event, Reflected):
            if event.begins:
                self._begin("thoughts")
            return Thought(**vars(event), text=self._text("thoughts", event.token_id))
        if isinstance(event, Said):
            text = self._tokenizer.decode(event.words, skip_special_tokens=True).strip()
            self._begin("words", "thoughts")  # a character left open does not reach into the next turn
            wrong = None if event.wrong_end is None else self._tokenizer.decode(event.wrong_end)
            return Turn(event.start_s, event.end_s, text, event.t_s, event.thought, wrong)
        return event

    def _begin(self, *streams: str) -> None:
        for what in streams:
            self._decoding[what], self.open_ids[what] = DecodeStream(skip_special_tokens=True), []

    def _text(self, what: str, token_id: int) -> str:
        if token_id == self._end:
            self._begin(what)
            self.open_ids[what] = [token_id]
            return ""
        text = self._decoding[what].step(self._decodes, token_id)
        if text is None:
            self.open_ids[what] = [*self.open_ids[what], token_id]
            return ""
        follows = what == "words" and self._end in self.open_ids[what]
        self.open_ids[what] = []
        return f" {text}" if follows and not text[0].isspace() else text


def with_fast_path(
    loaded: Loaded,
    first: StepFrames,
    *,
    question: str | None = None,
    system: str | None = None,
    num_steps: int,
    max_new_tokens: int | None = None,
    max_pixels: int | None = None,
    warm: bool = False,
) -> Loaded:
    """The same model on the fast path (model.cuda_graph_model), with room for one narration of frames like `first`.

    Args:
        num_steps: the most that will be watched; max_pixels: of a frame, in place of what the budget says.
        warm: prepare now for what a session of the checkpoint's schedule asks for step by step, so that its first
            seconds are no slower than others. Takes a while on a GPU, and is for nothing elsewhere.
    Raises:
        UserError: the model is spread over devices, or its layers are of a kind that the fast path does not have.
    """
    encoder = StepEncoder(loaded, max_pixels=max_pixels).frames
    _, grid = encoder.encode(first.frames, first.num_frames)
    num_video = encoder.tokens_per_step(*first.frames.shape[1:3], first.num_frames)
    prompts, markup = load_prompts(), loaded.markup
    texts = system or prompts.system, question or prompts.eval_question
    num_text = len(prompt_ids(loaded.tokenizer, *texts, markup)) + len(markup.around(range(num_steps)))
    watched = num_text + num_steps * num_video + len(markup.suffix)
    model = CudaGraphModel(loaded.model, watched, len(markup.header) + (max_new_tokens or LIMIT))
    if warm:
        num_rows = num_video + len(markup.around([0]))
        riding = -(-num_rows // parse_schedule(loaded.settings.schedule).k)
        model.warm_up([(1,), (len(markup.header),), (num_rows,), (riding + 1,)], [grid])
    return replace(loaded, model=model)


def caption_of(tokens: Iterable[Token]) -> str:
    """The narration as one string, stripped."""
    return "".join(token.text for token in tokens).strip()
