"""Measure watching while speaking: all engines on one set of weights, next to what is possible at best.

Every engine narrates the same stream of random pixels and must say the same words. `reprefill` is what the papers'
public release does: everything again for every frame. `serial` watches a step, then speaks; `fused`, `streams` and
`two_device` watch the next step meanwhile, and gain S over it, which is told next to the bound (p + g) / max(p, g).
The base point comes first, then the parts that are asked for, then the sweep. What could not be measured is listed
with its reason, and the file is written anew after every part, so that a run that is cut short keeps what it has.
"""

import argparse
import json
import shlex
import signal
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

from swwatch.bench.memory import forget_peak, memory_peak
from swwatch.bench.page import again
from swwatch.bench.stream.bounds import Roof, reprefill_tokens
from swwatch.bench.stream.engines import Bed, Run
from swwatch.bench.stream.figures import compare, engine_row, same_tokens
from swwatch.bench.stream.page import report
from swwatch.bench.stream.rates import device_rates
from swwatch.bench.stream.settings import BASELINE, REFERENCE, Point, StreamSettings, points, settle
from swwatch.bench.stream.soak import soak
from swwatch.bench.stream.source import PROMPT_LEN, Camera
from swwatch.bench.stream.sustain import attempt, sustained
from swwatch.bench.stream.trust import Neighbours, verdict
from swwatch.config import add_flags, load_settings
from swwatch.data.annotations import write_atomic
from swwatch.engine.trace import SimulatedClock
from swwatch.errors import UserError
from swwatch.metrics.machine import machine
from swwatch.paths import make_folder

NAME = "bench_stream"
LONG_S = 20.0  # the baseline is run once where a run takes longer, and left out of the parts that need many
CANNOT = (UserError, torch.OutOfMemoryError)  # of one engine, with nothing wrong with the others


def build_parser() -> argparse.ArgumentParser:
    summary, _, details = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(prog="swwatch bench stream", description=summary, epilog=details)
    add_flags(parser, StreamSettings)
    return parser


def main(argv: list[str]) -> int:
    settings = load_settings(StreamSettings, flags=vars(build_parser().parse_args(argv)))
    if settings.report is not None:
        return again("stream", settings.report, settings.output, report, draw)
    settings = settle(settings, torch.cuda.is_available())
    if settings.output is not None:
        make_folder(settings.output)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    result = Measurement(settings, shlex.join(["swwatch", "bench", "stream", *argv])).run()
    print(report(result))
    if settings.output is not None:
        draw(result, settings.output)
        print(f"\nwritten to {settings.output}")
    return 0


def draw(result: dict, folder: Path) -> None:
    from swwatch.bench.stream.plots import draw_cost, draw_gain  # matplotlib takes seconds to import

    draw_gain(result, folder / f"{NAME}_gain.png")
    draw_cost(result, folder / f"{NAME}_cost.png")


class Measurement:
    """One run of the program. `result` holds what is known so far."""

    def __init__(self, settings: StreamSettings, command: str):
        self.settings, self.cuda = settings, settings.device == "cuda"
        self.began = time.perf_counter()
        begin = machine()
        self.neighbours = Neighbours(self.cuda)
        dtype = getattr(torch, settings.precision)
        self.rates = device_rates(settings.device, dtype, settings.bandwidth)
        told = {key: value for key, value in asdict(settings).items() if key not in ("output", "report")}
        self.result = {"command": command, "settings": told, "begin": begin, "rates": self.rates}
        self.result |= {"threads": torch.get_num_threads(), "shapes": {}, "points": [], "paced": []}
        self.result |= {"sustain": [], "soak": [], "left_out": []}

    def run(self) -> dict:
        """Measure all that is asked for. Ctrl-C or SIGTERM ends the measuring and keeps what there is."""
        before = signal.signal(signal.SIGTERM, _stop)
        try:
            for shape in self.settings.models:
                self.shape(shape)
        except KeyboardInterrupt:
            self.result["left_out"].append({"part": "what was still to come", "reason": "stopped from outside"})
        finally:
            signal.signal(signal.SIGTERM, before)
        return self.save()

    def save(self) -> dict:
        """Judge what there is, and write it."""
        quiet = self.neighbours
        bases = {
            shape: next((p for p in self.result["points"] if p["shape"] == shape), None)
            for shape in self.result["shapes"]
        }
        rows = [
            (f"{name} ({shape})", row)
            for shape, base in bases.items()
            if base
            for name, row in base["engines"].items()
        ]
        self.result["end"] = machine()
        self.result["verdict"] = verdict(
            self.settings,
            load=quiet.load,
            cores=len(quiet.cores),
            others=quiet.share(),
            spreads=[(name, row.get("spread")) for name, row in rows],
            gpu_bytes=quiet.gpu_bytes,
        )
        if self.settings.output is not None:
            write_atomic(self.settings.output / f"{NAME}.json", [json.dumps(self.result, indent=1) + "\n"])
            write_atomic(self.settings.output / f"{NAME}.md", [report(self.result) + "\n"])
        return self.result

    def shape(self, shape: str) -> None:
        """All that is asked of one model."""
        settings = self.settings
        base, *others = [point for point in points(settings) if point.shape == shape]
        self.say(f"{shape}: making the model")
        bed = Bed(settings, shape, self.longest([base, *others]))
        try:
            self.result["shapes"][shape] = bed.facts()
            roof = Roof(**bed.facts()["llm"], bandwidth=self.rates["bandwidth"], flops=self.rates["flops"])
            first = self.point(bed, base, roof)
            if "step_s" not in first["engines"][REFERENCE]:
                return
            rows = first["engines"]
            if settings.paced:
                self.part(f"{shape}: paced runs", lambda: self.paced(bed, base, rows))
            if settings.sustain:
                for engine in sorted(rows, key=lambda name: name != "fused"):  # the most important one first
                    self.part(f"{shape}: highest rate of {engine}", lambda e=engine: self.sustain(bed, base, e, rows))
            for point in others:
                self.part(str(point), lambda p=point: self.point(bed, p, roof))
            if settings.soak:
                self.part(f"{shape}: {settings.soak:g} minutes", lambda: self.soak(bed, base, rows))
        finally:
            bed.close()

    def longest(self, places: list[Point]) -> tuple[int, int]:
        """The most tokens that a session watches, and says."""
        streams = [(p.video_tokens, p.k, p.steps) for p in places]
        minutes = round(60 * self.settings.soak * self.settings.soak_rate)
        streams.append((places[0].video_tokens, places[0].k, max(self.settings.session_steps, minutes)))
        return max(m * steps for m, _, steps in streams), max(k * steps for _, k, steps in streams)

    def part(self, name: str, work) -> None:
        """Do it, if there is time, and keep what came out."""
        limit = self.settings.limit_s
        if limit is not None and time.perf_counter() - self.began > limit:
            self.result["left_out"].append({"part": name, "reason": f"the time of --limit-s {limit:g} was up"})
        else:
            work()
        self.save()

    def say(self, text: str) -> None:
        print(f"[{time.perf_counter() - self.began:6.0f} s] {text}", file=sys.stderr, flush=True)

    def point(self, bed: Bed, point: Point, roof: Roof) -> dict:
        """All engines at one point, in turns."""
        self.say(str(point))
        rows = {name: {"not_measured": bed.reasons[name]} for name in self.settings.engines if name in bed.reasons}
        runs, peaks = self.turns(bed, point, rows)
        said = runs[REFERENCE][0].played.tokens if runs.get(REFERENCE) else []
        for name, made in runs.items():
            beside = [run.beside_s for run in made if run.beside_s is not None]
            row = engine_row([run.played for run in made], fed=made[0].fed, peak=peaks[name], watched_beside=beside)
            row["same_tokens"] = same_tokens(made[0].played.tokens, said)
            rows[name] = row
        split = bed.run(REFERENCE, point, wait=True).played if self.cuda and said else None
        ordered = {name: rows[name] for name in self.settings.engines}
        found = compare(point, ordered, split, roof)
        self.result["points"].append(found)
        self.save()
        return found

    def turns(self, bed: Bed, point: Point, rows: dict) -> tuple[dict[str, list[Run]], dict]:
        """Run the engines one after the other, again and again. Those that cannot are written into `rows`."""
        runs: dict[str, list[Run]] = {}
        peaks: dict[str, int | None] = {}
        open_engines = [name for name in self.settings.engines if name not in rows]
        once = set()
        token_s = None
        for name in open_engines:  # warm-ups, the serial engine first: they tell how long the baseline will take
            try:
                warm = self.warm_up(bed, name, point)
            except CANNOT as error:
                rows[name] = {"not_measured": _reason(error)}
                continue
            step_s = statistics.median(warm.played.step_times())
            expected = step_s * point.steps
            if name == REFERENCE:
                token_s = warm.played.seconds_of("look", "watch", "both") / point.video_tokens
            if name == BASELINE and token_s is not None:
                fed = reprefill_tokens(point.video_tokens, point.k, point.steps, prompt=PROMPT_LEN, suffix=3, header=3)
                expected = fed * token_s if not self.cuda else expected
                once |= {name} if expected > LONG_S else set()
            if expected > self.settings.max_engine_s:
                limit = f"--max-engine-s {self.settings.max_engine_s:g}"
                rows[name] = {"not_measured": f"a run would take about {expected:.0f} s, more than {limit}"}
                continue
            runs[name], peaks[name] = [], None
        base = not any(found["shape"] == point.shape for found in self.result["points"])
        repeats = self.settings.repeats if base else self.settings.sweep_repeats
        for turn in range(repeats):
            for name in [n for n in runs if turn == 0 or n not in once]:
                forget_peak(self.cuda)
                try:
                    runs[name].append(bed.run(name, point))
                except CANNOT as error:
                    rows[name] = {"not_measured": _reason(error)}
                    del runs[name]
                    continue
                peaks[name] = max(filter(None, (peaks[name], memory_peak(self.cuda))), default=None)
                seconds = statistics.median(runs[name][-1].played.step_times())
                self.say(f"  {name} {turn + 1}/{repeats}: {seconds:.4f} s a step")
        return {name: made for name, made in runs.items() if made}, peaks

    def warm_up(self, bed: Bed, name: str, point: Point) -> Run:
        """Not counted. Over static memory the whole stream, for every length of it is recorded once."""
        steps = point.steps if bed.fast is not None and name != BASELINE else min(4, point.steps)
        for _ in range(max(1, self.settings.warmup)):
            run = bed.run(name, point, steps=steps)
        return run

    def quick(self, rows: dict, name: str, steps: int) -> bool:
        """Whether an engine was measured, and is not a baseline that takes minutes."""
        return "step_s" in rows[name] and (name != BASELINE or rows[name]["step_s"] * steps < LONG_S)

    def paced(self, bed: Bed, base: Point, rows: dict) -> None:
        """How stale tokens are at 2 frames a second, and at nine tenths of what the serial engine can take in."""
        self.say("paced runs")
        from swwatch.metrics.timing import distribution

        serial = 1 / rows[REFERENCE]["step_s"]
        for name in rows:
            if not self.quick(rows, name, base.steps):
                continue
            for label, rate in (("2 frames a second", 1.0), ("90 % of serial", 0.9 * serial)):
                for _ in range(2 if bed.fast else 1):  # the first one records what only a pace brings about
                    clock = SimulatedClock()
                    camera = Camera(bed.pictures(base.video_tokens, base.steps), clock, rate, base.steps, base.steps)
                    played = bed.play(name, bed.open(name, base.k, base.steps, clock), camera).played
                told = {"shape": base.shape, "engine": name, "pace": label, "rate": rate}
                told |= {
                    "staleness_s": distribution(played.lags_s),
                    "longest_queue": max(n for _, n in camera.backlog),
                }
                self.result["paced"].append(told)

    def sustain(self, bed: Bed, base: Point, name: str, rows: dict) -> None:
        """The highest rate of one engine."""
        told = {"shape": base.shape, "engine": name}
        steps = self.settings.session_steps
        if not self.quick(rows, name, steps):
            reason = rows[name].get("not_measured", f"the baseline takes {rows[name].get('step_s', 0):.1f} s a step")
            self.result["sustain"].append(told | {"not_measured": reason})
            return
        self.say(f"highest rate of {name}")

        def run_session(part) -> int:
            session = bed.open(name, base.k, steps, part.stream.clock)
            return len(bed.play(name, session, part).played.tokens)

        guess = 1 / rows[name]["step_s"]
        how = {"hold_s": self.settings.hold_s, "session_steps": steps, "queue": self.settings.queue}
        pictures = bed.pictures(base.video_tokens, 8)
        if bed.fast:  # a rehearsal records what only a pace brings about
            attempt(run_session, pictures, SimulatedClock(), 0.8 * guess, **how)
        self.result["sustain"].append(told | sustained(run_session, pictures, SimulatedClock, guess, **how))

    def soak(self, bed: Bed, base: Point, rows: dict) -> None:
        """One session for minutes: the fused engine on a GPU, else the serial one."""
        settings = self.settings
        name = "fused" if self.cuda and "step_s" in rows.get("fused", {}) else REFERENCE
        self.say(f"{settings.soak:g} minutes of {name}")
        steps = max(2, round(60 * settings.soak * settings.soak_rate))
        how = {"minutes": settings.soak, "rate": settings.soak_rate, "queue": settings.queue, "cuda": self.cuda}
        pictures = bed.pictures(base.video_tokens, 8)
        found = soak(lambda clock: bed.open(name, base.k, steps, clock), bed.answering(name), pictures, **how)
        self.result["soak"].append({"shape": base.shape, "engine": name} | found)


def _stop(*_) -> None:
    raise KeyboardInterrupt


def _reason(error: Exception) -> str:
    return "it does not fit into memory" if isinstance(error, torch.OutOfMemoryError) else str(error)
