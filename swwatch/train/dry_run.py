"""`swwatch train --dry-run`: what the first batches hold, and a picture of the first sample. Nothing is trained."""

import itertools
from collections import Counter
from pathlib import Path

import torch

from swwatch.data.dataset import Sample
from swwatch.data.prompt import IGNORED
from swwatch.errors import UserError
from swwatch.pictures.sample import draw
from swwatch.rules.layout import KINDS, Kind
from swwatch.rules.variants import TURNS
from swwatch.rules.visibility import CARRIER
from swwatch.train.arrange import Arrangement
from swwatch.train.settings import TrainSettings
from swwatch.train.setup import Setup
from swwatch.train.trainer import RunOrder

FORWARDS = 2  # that are built, or fewer where a step has fewer
PICTURE = "dry_run.png"


def dry_run(settings: TrainSettings, arranged: Arrangement, setup: Setup, steps: int) -> None:
    """Build the first forwards of the run, print what they hold, and draw the first sample into the output folder.

    Args:
        steps: of the whole run.
    Raises:
        UserError: a row has no sample.
    """
    forwards = min(FORWARDS, settings.accumulation * steps)
    keys = iter(RunOrder(arranged.order, forwards * settings.batch_size))
    samples: list[Sample] = []
    print(f"\n{'forward':8} {'rows':>5} {'samples':>8} {'tokens':>8} {'padding':>8} {'labels':>7}")
    for number in range(1, 1 + forwards):
        drawn = [arranged.dataset[key] for key in itertools.islice(keys, settings.batch_size)]
        batch = setup.collator(drawn)
        if "counts" not in batch:
            last = batch["skips"][-1]
            raise UserError(f"no sample could be drawn; the last record tried is {last.path}: {last.reason}")
        for skip in batch["skips"]:
            print(f"skipped: {skip.path}: {skip.reason}")
        labels = int((batch["labels"][:, 1:] != IGNORED).sum())
        counts = batch["counts"]
        print(
            f"{number:<8} {len(drawn):>5} {counts['samples']:>8} {counts['tokens']:>8,} {counts['padding']:>8,} "
            f"{labels:>7,}" + _fill(settings, counts["tokens"], len(drawn))
        )
        samples += [sample for item in drawn for sample in item.samples]
    kinds = Counter()
    for sample in samples:
        kinds.update({kind: int(sample.tokens.where(kind).sum()) for kind in KINDS})
    total, per_step = sum(kinds.values()), settings.rows_per_step
    shares = [f"{kind} {count:,} ({count / total:.0%})" for kind, count in kinds.items() if count]
    print(f"tokens       {', '.join(shares)}")
    rows = forwards * settings.batch_size
    print(f"a step       about {total / rows * per_step:,.0f} tokens, {len(samples) / rows * per_step:,.0f} samples")
    print(f"steps        {steps:,}")
    print(f"sample       {_speech(samples[0], setup.loaded.tokenizer)}")
    print(f"picture      {_picture(settings, samples[0], setup.loaded.settings.carriers is not None)}")


def _fill(settings: TrainSettings, tokens: int, rows: int) -> str:
    return "" if settings.pack_tokens is None else f"  {tokens / (settings.pack_tokens * rows):.0%} full"


def _speech(sample: Sample, tokenizer, steps: int = 4) -> str:
    """What is learned to be said in the first steps in which something is said."""
    learned = sample.labels != IGNORED
    said = []
    for step in sorted(set(sample.tokens.step[learned].tolist()))[:steps]:
        ids = sample.input_ids[learned & (sample.tokens.step == step)]
        said.append(f"{step + 1}: {tokenizer.decode(ids)!r}")
    text = "said in step " + ", ".join(said)
    if sample.decisions is None:
        return text
    silent, begins = (int(chosen.sum()) for chosen in (sample.decisions < 0, sample.decisions > 0))
    return f"{text}; not yet at {silent} steps, begins at {begins}"


def _picture(settings: TrainSettings, sample: Sample, carried: bool) -> Path:
    path = settings.output_dir / PICTURE
    tokens, counts = sample.tokens, sample.labels != IGNORED
    if sample.decisions is not None:
        counts = counts | (sample.decisions != 0)
    if carried:
        video = tokens.where(Kind.VIDEO)
        size = int(video.sum()) // int(sample.video_grid_thw[0, 0])
        tokens = tokens.carried((video.cumsum(0) - 1) // size if settings.variant in TURNS else None)
        counts = torch.zeros(len(tokens), dtype=torch.bool).masked_scatter(tokens.stream != CARRIER, counts)
    draw(settings.variant, tokens, path, f"{len(tokens):,} tokens, the first training sample", counts=counts)
    return path
