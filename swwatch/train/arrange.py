"""How samples come together: one by one, in batches of like length, or packed into sequences up to a token budget."""

import os
from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import Dataset, Sampler

from swwatch.data.dataset import EpochOrder, spread
from swwatch.data.lengths import sample_lengths
from swwatch.data.packing import LengthOrder, PackedClips, PackOrder, PackPlan
from swwatch.data.samples import Samples, Skip
from swwatch.errors import UserError
from swwatch.train.settings import TrainSettings

CLIP_SIZES = "clip_sizes.jsonl"  # in the output folder, see data/lengths.py
LOOKS = 256  # videos opened before a run that needs no lengths, up to twice as many
THREADS = 32  # that look at videos side by side, at most


@dataclass(frozen=True)
class Arrangement:
    """What the trainer reads.

    Attributes:
        dataset: its items are draws, or packs.
        order: what is read in an epoch; its length is the number of rows an epoch has, of all processes together.
        skips: records that cannot be used, of the `num_looked` whose videos were opened.
        summary: for the banner.
        tokens_per_row: the mean, where it is known before any clip is decoded.
    """

    dataset: Dataset
    order: Sampler
    skips: tuple[Skip, ...]
    num_looked: int
    summary: str
    tokens_per_row: float | None = None


def arrange(settings: TrainSettings, clips: Samples, folder: Path) -> Arrangement:
    """Arrange the clips as the settings say; packs and batches of like length need a look at every video first.

    Otherwise some hundred of them are looked at, so that too many clips that cannot be used are told at once.

    Args:
        folder: for the file of clip sizes.
    Raises:
        UserError: no record gives a sample.
    """
    one_by_one = settings.pack_tokens is None and not settings.group_by_length
    chosen = spread(len(clips), LOOKS) if one_by_one else range(len(clips))
    # every process plans for itself, from the same sizes to the same plan; one of them keeps the file
    is_main = int(os.environ.get("RANK", 0)) == 0
    threads = min(THREADS, os.cpu_count() or 1)
    lengths = sample_lengths(clips, folder / CLIP_SIZES, threads, write=is_main, chosen=chosen)
    if not any(lengths.tokens) and not one_by_one:  # of which some may never have been looked at
        raise UserError(f"no record gives a sample; the first one: {lengths.skips[0].path}: {lengths.skips[0].reason}")
    skips, cut = (tuple(lengths.skips), len(chosen)), ""
    if lengths.num_cut:
        cut = f", {lengths.num_cut:,} of {len(chosen):,} without the end of their video"
    if one_by_one:
        mean = sum(lengths.tokens) / max(1, len(chosen) - len(lengths.skips))
        return Arrangement(clips, EpochOrder(len(clips), settings.seed), *skips, f"one sample a row{cut}", mean)
    if settings.pack_tokens is None:
        order = LengthOrder(lengths.tokens, settings.batch_size, settings.seed)
        mean = sum(lengths.tokens) / len(lengths.tokens)  # a record without a sample is replaced by another one
        return Arrangement(clips, order, *skips, f"one sample a row, rows of a batch of like length{cut}", mean)
    plan = PackPlan(lengths.tokens, settings.pack_tokens, settings.seed)
    summary = (
        f"packs of up to {settings.pack_tokens:,} tokens: {len(plan):,} for {len(plan.used):,} samples, "
        f"{plan.num_tokens / len(plan) / settings.pack_tokens:.0%} full{cut}"
    )
    return Arrangement(
        PackedClips(clips, settings.pack_tokens, len(plan)),
        PackOrder(plan),
        *skips,
        summary,
        plan.num_tokens / len(plan),
    )
