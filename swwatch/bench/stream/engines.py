"""The engines on one set of weights: which can run here, how a session of each is opened, how often it is run."""

import statistics
from dataclasses import replace

import torch

from swwatch.bench.inputs import PROMPT_LEN, prompt_of, random_steps
from swwatch.bench.models import num_parameters, streaming_model
from swwatch.bench.source import Ready
from swwatch.bench.stopwatch import ModuleTime
from swwatch.bench.stream.bounds import weights_read
from swwatch.bench.stream.played import Played, play
from swwatch.bench.stream.reprefill import Reprefill
from swwatch.bench.stream.settings import BASELINE, Point, StreamBenchSettings
from swwatch.engine import choose
from swwatch.engine.trace import SimulatedClock
from swwatch.engine.two_device import second_device
from swwatch.engine.watcher import Watcher
from swwatch.errors import UserError
from swwatch.policies.speak import WaitK
from swwatch.policies.think import Notes

MARKUP_ROOM = 16  # tokens of suffix and header, and some to spare


class Engines:
    """One model and what belongs to it while it is measured. Close it: watchers hold threads and processes.

    Attributes:
        model: the plain model; fast: over static memory with CUDA graphs, or None.
        reasons: engine -> why it cannot run here.
        thoughts: tokens that are thought a step, at most.
    """

    def __init__(self, settings: StreamBenchSettings, shape: str, longest: tuple[int, int]):
        """Args: `longest`, the most tokens that a session watches and says."""
        self.settings, self.cuda = settings, settings.device == "cuda"
        self.model = streaming_model(settings, shape)
        self.own = settings.put_on(self.model.settings, shape)
        self.thoughts = self.own.think.k if isinstance(self.own.think, Notes) else 0
        self.prompt = prompt_of(self.model, settings.seed)
        self.fast = None
        if settings.fast:
            from swwatch.model.cuda_graph_model import CudaGraphModel

            watched, said = longest
            self.fast = CudaGraphModel(self.model, PROMPT_LEN + watched + MARKUP_ROOM, said + MARKUP_ROOM)
        self.watchers: dict[str, Watcher] = {}
        self.reasons: dict[str, str] = {}
        for engine in settings.engines:
            try:
                self._prepare(engine)
            except UserError as error:
                self.reasons[engine] = str(error)

    def _prepare(self, engine: str) -> None:
        """Raises UserError where an engine cannot run."""
        beside = engine == BASELINE or choose.ENGINES[engine].watcher
        if beside and self.own.own_keep.forgets:
            raise UserError(f"{engine} forgets nothing, and keep {self.own.own_keep} does")
        if engine == BASELINE and self.thoughts:
            raise UserError(f"{engine} thinks nothing, and the others would have more to do: leave out --think")
        if engine == BASELINE:
            Reprefill(self.model, self.prompt)
            return
        choose.check(engine, self.settings.variant)
        if engine == "two_device":
            watcher = second_device(self.model, threads=torch.get_num_threads())
        else:
            watcher = choose.open_watcher(engine, self.model)
        if watcher is not None:
            self.watchers[engine] = watcher

    def close(self) -> None:
        for watcher in self.watchers.values():
            watcher.close()

    def answering(self, engine: str):
        """The model that answers an engine's requests. The baseline is run as the release runs, without graphs."""
        return self.model if engine == BASELINE or self.fast is None else self.fast

    def open(self, engine: str, k: int, steps: int, clock):
        """A new session that says k tokens after each of so many steps."""
        own = replace(self.own.own_choose, max_new_tokens=k * steps)
        options = {"schedule": WaitK(k), "choose": own, "clock": clock}
        if engine == BASELINE:
            return Reprefill(self.model, self.prompt, **options)
        watcher, options["keep"] = self.watchers.get(engine), self.own.own_keep
        options["think"] = self.own.think
        return choose.open_session(engine, self.answering(engine), self.prompt, watcher=watcher, **options)

    def pictures(self, video_tokens: int, count: int) -> list:
        return random_steps(
            self.model.config.vision_config, video_tokens, count, self.settings.seed, self.settings.device
        )

    def run(self, engine: str, point: Point, *, steps: int | None = None, wait: bool = False) -> Played:
        """One run over a stream whose steps are all there when they are asked for."""
        count = steps or point.steps
        clock = SimulatedClock()
        session = self.open(engine, point.k, count, clock)
        return self.play(engine, session, Ready(self.pictures(point.video_tokens, count), clock), wait)

    def play(self, engine: str, session, source, wait: bool = False) -> Played:
        """Run an open session over a source."""
        beside, meters = engine in self.watchers, {}
        hooked = [] if self.cuda or self.fast is not None else self.model.model.language_model.layers
        attention = ModuleTime(layer.self_attn for layer in hooked)  # projections and cache included
        if hooked and not beside:  # hooks know nothing of threads and processes
            meters["attention_s"] = attention.seconds
        if beside:
            meters["watched"] = lambda: session.num_handed
        try:
            played = play(session, self.answering(engine), source, wait=wait, meters=meters)
        finally:
            attention.remove()
        played.fed = session.num_fed if engine == BASELINE else session.cache.num_fed
        if beside:  # without the step before the first word
            later = [second.vision_s + second.prefill_s for second in session.watch_seconds[1:]]
            played.beside_s = statistics.fmean(later) if later else None
        return played

    def facts(self) -> dict:
        """What was measured: sizes of the model."""
        facts = {"parameters": num_parameters(self.model), "llm": weights_read(self.model)}
        vision = num_parameters(self.model.model.visual)
        kind = self.model.quantised
        held = [self.settings.precision, f"LLM in {kind}" if kind else "", "LLM packed" if self.model.packed else ""]
        return facts | {"vision_parameters": vision, "precision": ", ".join(filter(None, held))}
