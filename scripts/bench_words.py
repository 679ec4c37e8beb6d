"""A spoken word on a CPU, whole: layers, output head, choice, the session's own work, for every form of the weights.

    python scripts/bench_words.py [--threads 1 2] [--sessions 1 2 4 8] [--rounds 5] [--vocab 151936] [--shape 0.2b]

All forms say the same number of words after the same picture, in turn, a round each; told is the median of a word's
milliseconds (of a round of words, where several sessions speak at once) over all words of all rounds, its ratio to
float32 in the same round (median over the rounds), and of one session the milliseconds that reading the weights once
takes at least. Random weights, nothing is downloaded. Prints a table, and one JSON object as the last line.
"""

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

WORDS, VIDEO_TOKENS, SEED = 12, 16, 0
UNTIMED = 2  # first words of a round
FORMS = {  # precision, quantize, pack
    "float32": ("float32", None, "off"),
    "float32, packed": ("float32", None, "auto"),
    "bfloat16": ("bfloat16", None, "off"),
    "bfloat16, packed": ("bfloat16", None, "auto"),
    "int8": ("float32", "int8", "off"),
    "int8, bfloat16 rows": ("bfloat16", "int8", "off"),
}


@dataclass
class Form:
    """One form of the weights. round_ms: sessions -> for each round the milliseconds of its words."""

    name: str
    model: object
    weight_bytes: int
    round_ms: dict[int, list[list[float]]] = field(default_factory=dict)


def make(name: str, shape: str, vocab: int) -> Form:
    import torch

    from swwatch.bench.models import random_session_model, shape_config
    from swwatch.bench.stream.bounds import weights_read
    from swwatch.bench.stream.settings import StreamBenchSettings

    precision, quantize, pack = FORMS[name]
    how = StreamBenchSettings(device="cpu", precision=precision, quantize=quantize, pack=pack, seed=SEED, shape=shape)
    config = shape_config(shape, "group")
    config.text_config.vocab_size = vocab
    with torch.inference_mode():
        model = random_session_model(config, how)
    return Form(name, model, weights_read(model)["weight_bytes"])


def speak(model, sessions: int) -> list[float]:
    """Milliseconds of each round of words, sessions speaking together after one picture; the first are not timed."""
    from swwatch.bench.inputs import prompt_of, random_steps
    from swwatch.bench.source import Ready
    from swwatch.engine import choose
    from swwatch.engine.batch import Batch
    from swwatch.engine.trace import SimulatedClock, Spoken
    from swwatch.policies.speak import WaitK

    batch, spoken, ended = Batch(model), 0, []
    own = replace(model.settings.own_choose, max_new_tokens=WORDS)
    pictures = random_steps(model.config.vision_config, VIDEO_TOKENS, 1, SEED)
    for key in range(sessions):
        clock = SimulatedClock()
        how = {"schedule": WaitK(WORDS), "choose": own, "clock": clock}
        session = choose.open_session("serial", model, prompt_of(model, SEED), **how)
        batch.add(key, session.run(Ready(pictures, clock)))
    while len(batch):
        events = batch.advance()
        now = sum(isinstance(event, Spoken) for _, event in events)
        spoken += now
        if now:
            ended.append(time.perf_counter())
    if spoken != sessions * WORDS:
        raise SystemExit(f"{spoken} words were said, {sessions * WORDS} expected")
    return [1000 * (b - a) for a, b in zip(ended, ended[1:], strict=False)][UNTIMED:]


def measure(threads: int, options: argparse.Namespace) -> list[dict]:
    """A row for each form and number of sessions."""
    import torch

    from swwatch.bench.stream.rates import read_bandwidth

    torch.set_num_threads(threads)
    forms = [make(name, options.shape, options.vocab) for name in options.forms]
    bandwidth, loads = read_bandwidth(), []
    with torch.inference_mode():
        for turn in range(options.rounds + 1):
            for sessions in options.sessions:
                for form in forms:
                    times = speak(form.model, sessions)
                    if turn:  # the first is not counted
                        form.round_ms.setdefault(sessions, []).append(times)
            loads.append(os.getloadavg()[0])
    plain = forms[0].round_ms
    return [
        {
            "form": form.name,
            "threads": threads,
            "sessions": sessions,
            "ms": statistics.median(ms for times in rounds for ms in times),
            "ratio": statistics.median(
                statistics.median(times) / statistics.median(base)
                for times, base in zip(rounds, plain[sessions], strict=True)
            ),
            "bound_ms": 1000 * form.weight_bytes / bandwidth,
            "load": [round(min(loads), 1), round(max(loads), 1)],
        }
        for form in forms
        for sessions, rounds in form.round_ms.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--shape", default="0.2b")
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS, help="the first is what is 1.00")
    options = parser.parse_args()
    rows = []
    for threads in options.threads:
        rows += measure(threads, options)
        print(f"\n{threads} thread{'s' if threads > 1 else ''}, load {rows[-1]['load'][0]} to {rows[-1]['load'][1]}")
        print("| form | sessions | ms | ratio | bound, ms |\n|---|---:|---:|---:|---:|")
        for row in (row for row in rows if row["threads"] == threads):
            bound = f"{row['bound_ms']:.1f}" if row["sessions"] == 1 else ""
            print(
                f"| {row['form']} | {row['sessions']} | {row['ms']:.1f} | {row['ratio']:.2f} | {bound} |", flush=True
            )
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
