"""This project beside what one would run instead, written from outside in plain transformers, with the same weights.

    python scripts/bench_peers.py [--seconds 10 30] [--threads 1 2] [--rounds 3] [--hidden 256 --layers 8] [--rows ...]

Rows, each with its peer:
    release  a narration (interleave, wait-k); the peer encodes everything anew at every step and calls `generate`
    livecc   chat turns over a cache that grows; the peer calls `generate` once a turn
    streamingvlm  chat turns over the newest seconds; the peer cuts the oldest turn out of its cache, and calls
             `generate` once a turn. Positions grow with the stream, for a plain cache cannot move them
    train    `swwatch train` with packs, workers and a frame cache; the peer is transformers' Trainer with padded
             batches, which decodes every clip anew
A clip is 640 x 360, 25 frames a second; both sides read and encode it with the same code, inside the time measured.
The two sides take turns, one call each; a ratio is the median over the pairs (least and largest behind it). "same"
tells whether both said the same token ids (train: whether the first losses agree), and the bench ends with 1 where
they did not. Parts: seconds in the vision tower, in the layers of the LLM with its head, and the rest; of training the
seconds of the first and the last epoch, and the shares of them that wait for data. Prints a table for people and, as
the last line, one JSON object for programs.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

WORDS, WINDOW_S = 3, 8  # tokens a step of a narration; seconds in view of streamingvlm
TURN_WORDS = 8
WINDOW = f"sink_window:{WINDOW_S}:turns_s={WINDOW_S}:text_sink=0:text_window=0"
SYSTEMS = {"livecc": (None, None), "streamingvlm": (WINDOW, "mrope_append")}  # what is kept, and where tokens stand
CLIPS, EPOCHS, BATCH = 16, 3, 4  # of the row `train`
ROWS = ("release", *SYSTEMS, "train")


def make_clip(path: Path, seconds: float, seed: int) -> None:
    import av
    import numpy as np

    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        picture = rng.integers(0, 256, (18, 32, 3), dtype=np.uint8).repeat(20, 0).repeat(20, 1)
        for shift in range(round(seconds * 25)):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, 2 * shift, axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


# ---- narrations and chat turns: each side is (model, what says the token ids of a clip) ----------------------------


def ours(folder: Path, row: str) -> tuple[object, Callable[[Path], list[int]]]:
    """This project, as its functions of `import swwatch` run it."""
    import swwatch

    keep, positions = SYSTEMS.get(row, (None, None))
    loaded = swwatch.load(folder, variant="interleave" if row == "release" else row, keep=keep)
    if row == "release":
        options = {"schedule": f"wait-k:{WORDS}"}
    else:
        options = {"choose": f"greedy:1:max_new_tokens={TURN_WORDS}"} | ({"policy": positions} if positions else {})

    def say(clip: Path) -> list[int]:
        if row == "release":
            options["choose"] = f"greedy:1:max_new_tokens={WORDS * round(float(clip.stem))}"
        return [token.token_id for token in swwatch.narrate(loaded, clip, **options)]

    return loaded.model, say


def theirs(folder: Path, row: str) -> tuple[object, Callable[[Path], list[int]]]:
    """transformers alone, but for the prompt's words and the frames, which both sides have from one place."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    import swwatch

    loaded = swwatch.load(folder, variant="interleave" if row == "release" else row)  # for tokenizer and processor
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, attn_implementation="sdpa").eval()
    model.generation_config.temperature = None  # a greedy call warns of it
    model.generation_config.repetition_penalty = 1.0
    mend_positions(model)
    say = anew if row == "release" else by_turn
    return model, lambda clip: say(model, loaded, clip)


def mend_positions(model) -> None:
    """A word said after a video stands one past the largest of its last token's three positions, as both the model's
    training and this project have it; `generate` counts each axis on by one (transformers 5.17)."""
    update = model._update_model_kwargs_for_generation

    def updated(*args, **how):
        more = update(*args, **how)
        where = more["position_ids"]
        where[-3:, :, -1] = where[-3:, :, -2].amax(0) + 1
        return more

    model._update_model_kwargs_for_generation = updated


def encoded(loaded, clip: Path) -> Iterator[tuple]:
    """(pixels, (rows, columns) before the merge) of every step."""
    from swwatch.data.video import iter_steps
    from swwatch.engine.source import StepEncoder

    encode = StepEncoder(loaded)
    for step in iter_steps(clip, max_frames=None):
        made = encode(step)
        yield made.pixel_values, made.grid_thw


def generated(model, ids: list[int], pixels, grids, words: int, **how) -> list[int]:
    """`ids` with what `generate` adds."""
    import torch

    tokens = torch.tensor([ids])
    video = {"pixel_values_videos": pixels, "video_grid_thw": grids}
    mask = torch.ones_like(tokens)
    how |= {"max_new_tokens": words, "do_sample": False, "use_cache": True}
    return model.generate(input_ids=tokens, attention_mask=mask, **video, **how)[0].tolist()


def anew(model, loaded, clip: Path) -> list[int]:
    """At every step all frames so far through the tower, and all tokens through the LLM."""
    import torch

    from swwatch.data.prompt import load_prompts, prompt_ids

    markup, prompts = loaded.markup, load_prompts()
    ids = prompt_ids(loaded.tokenizer, prompts.system, prompts.eval_question, markup)
    pixels, grids, said = [], [], []
    steps = list(encoded(loaded, clip))
    for number, (values, grid) in enumerate(steps):
        pixels.append(values)
        grids.append(grid)
        ids = ids + [markup.video] * int(grid.prod() // 4)
        ids += list(markup.suffix) if number == len(steps) - 1 else []
        ids += list(markup.header) if number == 0 else []
        kinds = (torch.tensor([ids]) == markup.video) * 2
        how = {"mm_token_type_ids": kinds, "min_new_tokens": WORDS}
        longer = generated(model, ids, torch.cat(pixels), torch.cat(grids), WORDS, **how)
        said += longer[len(ids) :]
        ids = longer
    return said


def by_turn(model, loaded, clip: Path) -> list[int]:
    """One call a turn over one cache, from which the oldest turn is cut where there is a window."""
    import torch
    from transformers import DynamicCache

    from swwatch.rules import systems, turn_positions
    from swwatch.rules.spans import ids_of

    system = systems.get(loaded.settings.variant)
    turns, policy = loaded.turns(system), turn_positions.of(system, SYSTEMS[system.name][1])
    cache, ids, said, at, blocks = DynamicCache(config=model.config), [], [], 0, []
    first, later = system.patches_of_turns(loaded.settings.fps)
    steps, end_s = list(encoded(loaded, clip)), 0
    where = torch.zeros((3, 0), dtype=torch.int64)
    for number in range(1000):
        taken, steps = steps[: later if number else first], steps[later if number else first :]
        if not taken:
            return said
        if SYSTEMS[system.name][0] and number >= WINDOW_S:
            begin, end = blocks.pop(0)
            cut(cache, begin, end)
            ids, where, size = ids[:begin] + ids[end:], torch.cat([where[:, :begin], where[:, end:]], 1), end - begin
            blocks = [(a - size, b - size) for a, b in blocks]
        grid = taken[0][1].clone()
        grid[0, 0] = len(taken)
        start_s, end_s = end_s, end_s + len(taken)
        merged = (len(taken), int(grid[0, 1] // 2), int(grid[0, 2] // 2))
        before = turns.begin() if number == 0 else [turns.close(number - 1)]
        turn = turns.turn(number, float(start_s), float(end_s), merged, None if number else system.query)
        begin = len(ids) + (len(ids_of(before)) if number == 0 else len(before[0]))
        placed, at = policy.place([*before, *turn], at, model.config.vision_config.tokens_per_second)
        ids, where = ids + ids_of([*before, *turn]), torch.cat([where, placed], 1)
        how = {"position_ids": where[:, None], "past_key_values": cache}
        longer = generated(model, ids, torch.cat([pixels for pixels, _ in taken]), grid, TURN_WORDS, **how)
        answer = longer[len(ids) :]
        said += answer
        answered = answer if answer[-1] == turns.im_end else [*answer, turns.im_end]
        where = torch.cat([where, torch.arange(at, at + len(answered)).expand(3, -1)], 1)
        ids, at = ids + answered, at + len(answered)
        blocks.append((begin, len(ids) + 1))  # with the line end that the next turn begins with
    raise AssertionError("a clip without end")


def cut(cache, begin: int, end: int) -> None:
    """Take the tokens from `begin` to `end` out of a cache."""
    import torch

    for layer in cache.layers:
        layer.keys, layer.values = (torch.cat([x[:, :, :begin], x[:, :, end:]], 2) for x in (layer.keys, layer.values))


def measure(folder: Path, row: str, clip: Path, threads: int, rounds: int) -> dict:
    """Both sides of a row on a clip, in turns."""
    import torch

    from swwatch.bench.stopwatch import ModuleTime

    torch.set_num_threads(threads)
    sides = {}
    for name, side in {"ours": ours, "theirs": theirs}.items():
        model, say = side(folder, row)
        parts = {"vision": [model.model.visual], "llm": [*model.model.language_model.layers, model.lm_head]}
        sides[name] = say, {part: ModuleTime(modules) for part, modules in parts.items()}
    rows, words = {name: [] for name in sides}, {}
    with torch.inference_mode():
        for number in range(rounds + 1):  # the first one warms up
            for name, (say, parts) in sides.items():
                before = {part: watch.seconds() for part, watch in parts.items()}
                begin_s = time.perf_counter()
                words[name] = say(clip)
                took = {"seconds": time.perf_counter() - begin_s}
                took |= {part: watch.seconds() - before[part] for part, watch in parts.items()}
                if number:
                    rows[name].append(took)
    ends = {name: {key: statistics.median(one[key] for one in took) for key in took[0]} for name, took in rows.items()}
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(*rows.values(), strict=True)]
    return {"words": len(words["ours"]), "same": words["ours"] == words["theirs"], "ratios": ratios} | ends


# ---- training ------------------------------------------------------------------------------------------------------


def write_data(folder: Path, seconds: int) -> Path:
    """Clips of one length, with captions of one length: four of them make a pack."""
    path = folder / f"train_{seconds}.jsonl"
    records = []
    for number in range(CLIPS):
        clip = folder / f"train_{seconds}_{number}.mp4"
        make_clip(clip, seconds, seed=number)
        caption = " ".join(["The video shows a red square that moves to the left"] * 2)
        records.append({"video_id": number, "video_path": clip.name, "human_caption": caption})
    path.write_text("".join(json.dumps(record | {"video_duration_in_s": seconds}) + "\n" for record in records))
    return path


def train_ours(folder: Path, data: Path, out: Path) -> list[dict]:
    """`swwatch train`: an optimizer step takes all clips, so that a step is an epoch."""
    command = [
        sys.executable,
        "-m",
        "swwatch.cli",
        "train",
        "--variant",
        "interleave",
        "--schedule",
        f"wait-k:{WORDS}",
    ]
    command += ["--model-path", str(folder), "--train-data", str(data), "--output-dir", str(out), "--log-to", "jsonl"]
    command += ["--max-steps", str(EPOCHS), "--batch-size", "1", "--accumulation", str(CLIPS // BATCH)]
    command += ["--max-length", "2000", "--pack-tokens", "2999", "--lr-schedule", "constant", "--warmup", "0"]
    command += ["--learning-rate", "1e-4", "--no-gradient-checkpointing", "--precision", "float32"]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    logs, times = ([json.loads(line) for line in (out / f"{name}.jsonl").open()] for name in ("log", "timing"))
    if any(log["samples"] != CLIPS for log in logs):
        raise AssertionError(f"a step is not an epoch: {logs}")
    both = zip(logs, times, strict=True)
    return [{"loss": a["loss"], "seconds": b["seconds"], "data": b["seconds"] * b["data_wait"]} for a, b in both]


def train_theirs(folder: Path, data: Path, out: Path) -> list[dict]:
    """transformers' Trainer over its own model."""
    from transformers import Qwen2_5_VLForConditionalGeneration, Trainer, TrainerCallback, TrainingArguments

    import swwatch
    from swwatch.data.annotations import read_jsonl
    from swwatch.data.budget import BUDGETS
    from swwatch.data.collator import Collator
    from swwatch.data.pixels import FrameEncoder

    loaded = swwatch.load(folder, variant="interleave", schedule=f"wait-k:{WORDS}")
    encoder = FrameEncoder(loaded.processor.video_processor, BUDGETS[loaded.settings.pixel_budget])
    clips = loaded.clips(read_jsonl(data), data, encoder=encoder, seed=42)
    collator, steps = Collator(loaded.tokenizer.pad_token_id), []

    class Clips:
        read_s = 0.0

        def __len__(self):
            return CLIPS

        def __getitem__(self, index):
            begin_s = time.perf_counter()
            sample = clips.build(clips.records[index], epoch=0)
            self.read_s += time.perf_counter() - begin_s
            return sample

    def batch(samples):
        made = collator.batch(samples)
        mask = made.pop("columns")[:, 0] == 0  # the first and only sample of each row
        return made | {"attention_mask": mask.long()}

    class Times(TrainerCallback):
        def on_train_begin(self, *args, **how):
            self.begin_s, self.read_s = time.perf_counter(), 0.0

        def on_step_end(self, *args, **how):
            now_s, read_s = time.perf_counter(), dataset.read_s
            steps.append({"seconds": now_s - self.begin_s, "data": read_s - self.read_s})
            self.begin_s, self.read_s = now_s, read_s

    model, dataset = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, attn_implementation="sdpa"), Clips()
    model.model.visual.requires_grad_(False)
    model.model.visual.merger.requires_grad_(True)
    how = {"learning_rate": 1e-4, "lr_scheduler_type": "constant", "max_grad_norm": 1.0, "report_to": "none"}
    how |= {"per_device_train_batch_size": BATCH, "gradient_accumulation_steps": CLIPS // BATCH, "use_cpu": True}
    how |= {"remove_unused_columns": False, "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True}
    arguments = TrainingArguments(str(out), max_steps=EPOCHS, **how)
    trainer = Trainer(model, arguments, data_collator=batch, train_dataset=dataset, callbacks=[Times()])
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    return [{"loss": loss} | step for loss, step in zip(losses, steps, strict=True)]


def measure_training(folder: Path, data: Path, rounds: int, threads: int) -> dict:
    """Both trainers in turns, each in a process of its own."""
    runs = {"ours": [], "theirs": []}
    for _ in range(rounds):
        for name in runs:
            with tempfile.TemporaryDirectory() as out:
                command = [sys.executable, __file__, "--one", name, str(folder), str(data), f"{out}/run"]
                env = os.environ | {"OMP_NUM_THREADS": str(threads)}
                done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
                runs[name].append(json.loads(done.stdout.splitlines()[-1]))
    ends = {}
    for name, taken in runs.items():
        total = [sum(step["seconds"] for step in steps) for steps in taken]
        first, later = ([steps[at]["seconds"] for steps in taken] for at in (0, -1))
        waits = [[steps[at]["data"] / steps[at]["seconds"] for steps in taken] for at in (0, -1)]
        of = {"seconds": total, "first epoch": first, "last epoch": later}
        of |= {"data, first": waits[0], "data, last": waits[1]}
        ends[name] = {key: statistics.median(values) for key, values in of.items()}
    ratios = [sum(s["seconds"] for s in b) / sum(s["seconds"] for s in a) for a, b in zip(*runs.values(), strict=True)]
    same = abs(runs["ours"][0][0]["loss"] - runs["theirs"][0][0]["loss"]) < 1e-3
    return {"words": CLIPS * EPOCHS, "same": same, "ratios": ratios} | ends


def main(argv: list[str]) -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--seconds", nargs="+", type=int, default=[10, 30], help="of a clip, but of train (10 30)")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="of torch (1 2)")
    parser.add_argument("--rounds", type=int, default=3, help="pairs that count (%(default)s)")
    parser.add_argument("--hidden", type=int, default=256, help="width of the LLM (%(default)s)")
    parser.add_argument("--layers", type=int, default=8, help="of the LLM (%(default)s)")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        name, *paths = args.one
        print(json.dumps((train_ours if name == "ours" else train_theirs)(*map(Path, paths))))
        return 0
    from swwatch.toy.checkpoint import make_checkpoint

    rows = []
    print(f"{'row':<18} {'threads':>7} {'ratio':>22} {'ours s':>8} {'theirs s':>8}  same  load  parts, ours | theirs")
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        sizes = {"hidden": args.hidden, "layers": args.layers, "heads": args.hidden // 64, "kv_heads": 2}
        model = make_checkpoint(folder / "model", **sizes, vision_depth=4, vision_hidden=192)
        for seconds in args.seconds:
            make_clip(folder / f"{seconds}.mp4", seconds, seed=0)
        for row in args.rows:
            for seconds in args.seconds if row != "train" else [10]:
                data = write_data(folder, seconds) if row == "train" else None
                for threads in args.threads:
                    if row == "train":
                        result = measure_training(model, data, args.rounds, threads)
                    else:
                        result = measure(model, row, folder / f"{seconds}.mp4", threads, args.rounds)
                    load = round(os.getloadavg()[0], 1)
                    rows.append({"row": f"{row}, {seconds} s", "threads": threads, "load": load} | result)
                    print(line_of(rows[-1]), flush=True)
    machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    print(json.dumps(machine | {"python": platform.python_version(), **sizes, "rows": rows}))
    return 0 if all(row["same"] for row in rows) else 1


def line_of(row: dict) -> str:
    ratios, ours, theirs = row["ratios"], row["ours"], row["theirs"]
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    parts = " | ".join(", ".join(f"{k} {v:.2f}" for k, v in side.items() if k != "seconds") for side in (ours, theirs))
    same = "yes" if row["same"] else "NO"
    numbers = f"{ours['seconds']:8.2f} {theirs['seconds']:8.2f}"
    return f"{row['row']:<18} {row['threads']:>7} {ratio:>22} {numbers}  {same:<4} {row['load']:5.1f}  {parts}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
