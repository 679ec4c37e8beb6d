"""All engines on one set of weights: at the base point, in the further parts that are asked for, over the sweep."""

import statistics

import torch

from swwatch.bench.inputs import PROMPT_LEN
from swwatch.bench.process import forget_peak, memory_peak
from swwatch.bench.record import Record
from swwatch.bench.source import Camera
from swwatch.bench.stream.bounds import Roof, reprefill_tokens
from swwatch.bench.stream.engines import Engines
from swwatch.bench.stream.figures import compare, engine_row, same_tokens
from swwatch.bench.stream.page import report
from swwatch.bench.stream.played import Played
from swwatch.bench.stream.rates import device_rates
from swwatch.bench.stream.settings import BASELINE, REFERENCE, Point, StreamBenchSettings, points
from swwatch.bench.stream.soak import soak
from swwatch.bench.stream.sustain import attempt, sustained
from swwatch.engine.trace import SimulatedClock
from swwatch.errors import UserError
from swwatch.metrics.timing import distribution

LONG_S = 20.0  # the baseline is run once where a run takes longer, and left out of the parts that need many
CANNOT = (UserError, torch.OutOfMemoryError)  # of one engine, with nothing wrong with the others


def measure(settings: StreamBenchSettings, command: str) -> dict:
    """Measure all that is asked for, and write it after every part.

    Args:
        settings: settled.
    """
    return Measurement(settings, command).run()


class Measurement:
    """One run of the program. `result` holds what is known so far."""

    def __init__(self, settings: StreamBenchSettings, command: str):
        self.settings, self.cuda = settings, settings.device == "cuda"
        self.record = Record("stream", settings, command, report)
        self.say, self.result = self.record.say, self.record.result
        self.rates = device_rates(settings.device, getattr(torch, settings.precision), settings.bandwidth)
        self.result |= {"rates": self.rates, "shapes": {}, "points": [], "paced": [], "sustain": [], "soak": []}

    def run(self) -> dict:
        with self.record.until_stopped():
            for shape in self.settings.models:
                self.shape(shape)
        return self.save()

    def save(self) -> dict:
        """Judge what there is by the base of every shape, and write it."""
        bases: dict[str, dict] = {}
        for point in self.result["points"]:
            bases.setdefault(point["shape"], point["engines"])
        rows = [(f"{name} ({shape})", row) for shape, engines in bases.items() for name, row in engines.items()]
        return self.record.save([(name, row.get("spread")) for name, row in rows])

    def shape(self, shape: str) -> None:
        """All that is asked of one model."""
        settings = self.settings
        base, *others = [point for point in points(settings) if point.shape == shape]
        self.say(f"{shape}: making the model")
        engines = Engines(settings, shape, self.longest([base, *others]))
        try:
            self.result["shapes"][shape] = engines.facts()
            roof = Roof(**engines.facts()["llm"], bandwidth=self.rates["bandwidth"], flops=self.rates["flops"])
            rows = self.point(engines, base, roof)["engines"]
            if "step_s" not in rows[REFERENCE]:
                return
            if settings.paced:
                self.part(f"{shape}: paced runs", lambda: self.paced(engines, base, rows))
            if settings.sustain:
                for name in sorted(rows, key=lambda name: name != "fused"):  # the most important one first
                    self.part(f"{shape}: highest rate of {name}", lambda n=name: self.sustain(engines, base, n, rows))
            for point in others:
                self.part(str(point), lambda p=point: self.point(engines, p, roof))
            if settings.soak:
                self.part(f"{shape}: {settings.soak:g} minutes", lambda: self.soak(engines, base, rows))
        finally:
            engines.close()

    def longest(self, places: list[Point]) -> tuple[int, int]:
        """The most tokens that a session watches, and says."""
        base, settings = places[0], self.settings
        streams = [(place.video_tokens, place.k, place.steps) for place in places]
        streams += [(base.video_tokens, base.k, steps) for steps in (settings.session_steps, settings.soak_steps)]
        return max(tokens * steps for tokens, _, steps in streams), max(k * steps for _, k, steps in streams)

    def part(self, name: str, work) -> None:
        """Do it, if there is time, and keep what came out."""
        limit = self.settings.limit_s
        if limit is not None and self.record.elapsed_s > limit:
            self.result["left_out"].append({"part": name, "reason": f"the time of --limit-s {limit:g} was up"})
        else:
            work()
        self.save()

    # ---- one point of the sweep -------------------------------------------------------------------------------------

    def point(self, engines: Engines, point: Point, roof: Roof) -> dict:
        """All engines at one point, in turns."""
        self.say(str(point))
        rows = {name: {"not_measured": reason} for name, reason in engines.reasons.items()}
        once = self.warm_up(engines, point, rows)
        plays, peaks = self.turns(engines, point, rows, once)
        said = plays[REFERENCE][0].tokens if REFERENCE in plays else []
        for name, runs in plays.items():
            rows[name] = engine_row(runs, peak=peaks[name]) | {"same_tokens": same_tokens(runs[0].tokens, said)}
        split = engines.run(REFERENCE, point, wait=True) if self.cuda and said else None
        found = compare(point, {name: rows[name] for name in self.settings.engines}, split, roof, engines.thoughts)
        self.result["points"].append(found)
        self.save()
        return found

    def warm_up(self, engines: Engines, point: Point, rows: dict) -> set[str]:
        """Run every engine without counting; the serial engine tells how long the baseline will take.

        Returns:
            Engines that are to be run once, for a run takes long. Those that cannot run are written into `rows`.
        """
        settings, once, token_s = self.settings, set(), None
        for name in [name for name in settings.engines if name not in rows]:
            # over static memory the whole stream, for every length of it is recorded once
            steps = point.steps if engines.fast is not None and name != BASELINE else min(4, point.steps)
            try:
                for _ in range(max(1, settings.warmup)):
                    warm = engines.run(name, point, steps=steps)
            except CANNOT as error:
                rows[name] = {"not_measured": _reason(error)}
                continue

            expected = statistics.median(warm.step_times()) * point.steps
            if name == REFERENCE:
                token_s = warm.seconds_of("look", "watch", "both") / point.video_tokens
            if name == BASELINE and token_s is not None:
                fed = reprefill_tokens(point.video_tokens, point.k, point.steps, prompt=PROMPT_LEN, suffix=3, header=3)
                expected = expected if self.cuda else fed * token_s
                once |= {name} if expected > LONG_S else set()
            if expected > settings.max_engine_s:
                limit = f"--max-engine-s {settings.max_engine_s:g}"
                rows[name] = {"not_measured": f"a run would take about {expected:.0f} s, more than {limit}"}
        return once

    def turns(
        self, engines: Engines, point: Point, rows: dict, once: set[str]
    ) -> tuple[dict[str, list[Played]], dict]:
        """Run the engines one after the other, again and again.

        Returns:
            The runs of each, and its peak of memory. Engines that cannot run are written into `rows`.
        """
        plays: dict[str, list[Played]] = {name: [] for name in self.settings.engines if name not in rows}
        peaks: dict[str, int | None] = dict.fromkeys(plays)
        base = not any(found["shape"] == point.shape for found in self.result["points"])
        repeats = self.settings.repeats if base else self.settings.sweep_repeats
        for turn in range(repeats):
            for name in [name for name in plays if turn == 0 or name not in once]:
                forget_peak(self.cuda)
                try:
                    played = engines.run(name, point)
                except CANNOT as error:
                    rows[name] = {"not_measured": _reason(error)}
                    del plays[name]
                    continue
                plays[name].append(played)
                peaks[name] = max(filter(None, (peaks[name], memory_peak(self.cuda))), default=None)
                self.say(f"  {name} {turn + 1}/{repeats}: {statistics.median(played.step_times()):.4f} s a step")
        return plays, peaks

    # ---- further parts ----------------------------------------------------------------------------------------------

    def quick(self, rows: dict, name: str, steps: int) -> bool:
        """Whether an engine was measured, and is not a baseline that takes minutes."""
        return "step_s" in rows[name] and (name != BASELINE or rows[name]["step_s"] * steps < LONG_S)

    def paced(self, engines: Engines, base: Point, rows: dict) -> None:
        """How stale tokens are at the stream's own pace, and at nine tenths of what the serial engine can take in."""
        self.say("paced runs")
        own = f"{self.settings.fps:g} frames a second"
        rates = {own: 1 / self.settings.step_s, "90 % of serial": 0.9 / rows[REFERENCE]["step_s"]}
        for name in [name for name in rows if self.quick(rows, name, base.steps)]:
            for label, rate in rates.items():
                for _ in range(2 if engines.fast else 1):  # the first one records what only a pace brings about
                    clock = SimulatedClock()
                    pictures = engines.pictures(base.video_tokens, base.steps)
                    camera = Camera(pictures, clock, rate, base.steps, base.steps)
                    played = engines.play(name, engines.open(name, base.k, base.steps, clock), camera)
                row = {"shape": base.shape, "engine": name, "pace": label, "rate": rate}
                row["staleness_s"] = distribution(played.lags_s)
                row["longest_queue"] = max(length for _, length in camera.backlog)
                self.result["paced"].append(row)

    def sustain(self, engines: Engines, base: Point, name: str, rows: dict) -> None:
        """The highest rate of one engine."""
        steps = self.settings.session_steps
        if not self.quick(rows, name, steps):
            reason = rows[name].get("not_measured", f"the baseline takes {rows[name].get('step_s', 0):.1f} s a step")
            self.result["sustain"].append({"shape": base.shape, "engine": name, "not_measured": reason})
            return
        self.say(f"highest rate of {name}")

        def run_session(part) -> int:
            session = engines.open(name, base.k, steps, part.stream.clock)
            return len(engines.play(name, session, part).tokens)

        guess = 1 / rows[name]["step_s"]
        how = {"hold_s": self.settings.hold_s, "session_steps": steps, "queue": self.settings.queue}
        pictures = engines.pictures(base.video_tokens, 8)
        if engines.fast:  # a rehearsal records what only a pace brings about
            attempt(run_session, pictures, SimulatedClock(), 0.8 * guess, **how)
        found = sustained(run_session, pictures, SimulatedClock, guess, **how)
        self.result["sustain"].append({"shape": base.shape, "engine": name} | found)

    def soak(self, engines: Engines, base: Point, rows: dict) -> None:
        """One session for minutes: the fused engine on a GPU, else the serial one."""
        name = "fused" if self.cuda and "step_s" in rows.get("fused", {}) else REFERENCE
        self.say(f"{self.settings.soak:g} minutes of {name}")
        found = soak(engines, name, base, self.settings)
        self.result["soak"].append({"shape": base.shape, "engine": name} | found)


def _reason(error: Exception) -> str:
    return "it does not fit into memory" if isinstance(error, torch.OutOfMemoryError) else str(error)
