"""Which samples share a sequence (packing) or a batch (by length). Plans are made from lengths, before any decoding.

A plan is a function of (lengths, seed, epoch) alone: neither workers nor a restart nor a clip that turns out to be
unreadable changes where the others go, and an epoch has the same number of packs every time.
"""

import heapq
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch.utils.data import Dataset, Sampler

from swwatch.data.samples import Sample, Samples, Skip
from swwatch.errors import UserError

GRAINS = 256  # a pack's budget is divided into so many; lengths are rounded up to one (0.4 % of the budget)
BATCHES_SORTED = 32  # batches whose samples are sorted among themselves by LengthOrder


@dataclass(frozen=True)
class Pack:
    """What PackedClips returns: samples that share a row, and the records that gave none. No samples: gave up."""

    samples: tuple[Sample, ...]
    skips: tuple[Skip, ...] = ()


class PackPlan:
    """Fills packs up to a budget of tokens, largest samples first, each into the fullest pack that has room.

    Only rounded lengths decide, so the shape of the packs is found once. An epoch shuffles the samples of equal
    rounded length among their places, and then the packs.

    Args:
        lengths: tokens of each record's sample, at most; 0: it gives none and is left out.
        budget: tokens of a pack, at most.
        seed: of the epochs.
    Raises:
        UserError: a sample is longer than the budget, or there are none.
    """

    def __init__(self, lengths: Sequence[int], budget: int, seed: int):
        longest = max(lengths, default=0)
        if longest > budget:
            raise UserError(f"a sample of {longest} tokens does not fit into a pack of {budget}: raise pack_tokens")
        if not longest:
            raise UserError("there is no sample to pack")
        self.seed = seed
        grain = max(1, budget // GRAINS)
        capacity = budget // grain
        # a length close to the budget may round up to more than all of it: alone it fits
        self.sizes = [min(-(-length // grain), capacity) for length in lengths]
        self.used = [i for i, size in enumerate(self.sizes) if size]
        self.num_tokens = sum(lengths)
        ranks = sorted((self.sizes[i] for i in self.used), reverse=True)
        self.place, self.num_packs = _best_fit(ranks, capacity)

    def __len__(self) -> int:
        return self.num_packs

    def epoch(self, epoch: int) -> list[tuple[int, ...]]:
        """The packs of an epoch, in order: indices of records."""
        drawn = random.Random(f"packs/{self.seed}/{epoch}")
        order = self.used.copy()
        drawn.shuffle(order)
        order.sort(key=self.sizes.__getitem__, reverse=True)  # stable: equal sizes stay shuffled
        packs: list[list[int]] = [[] for _ in range(self.num_packs)]
        for index, place in zip(order, self.place, strict=True):
            packs[place].append(index)
        drawn.shuffle(packs)
        return [tuple(pack) for pack in packs]


def _best_fit(sizes: Sequence[int], capacity: int) -> tuple[list[int], int]:
    """Pack number of each size, and the number of packs. Packs are kept by their free room, the oldest first."""
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    place, count = [], 0
    for size in sizes:
        space = next((space for space in range(size, capacity) if by_room[space]), None)
        if space is None:
            space, pack = capacity, count
            count += 1
        else:
            pack = heapq.heappop(by_room[space])
        heapq.heappush(by_room[space - size], pack)
        place.append(pack)
    return place, count


class PackOrder(Sampler):
    """Yields (epoch, indices of a pack) over all packs of an epoch."""

    def __init__(self, plan: PackPlan):
        self.plan, self.epoch = plan, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader of transformers and accelerate at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        return iter([(self.epoch, pack) for pack in self.plan.epoch(self.epoch)])


class LengthOrder(Sampler):
    """Yields (epoch, index) so that batches of consecutive samples have about equal lengths: little padding.

    An epoch is shuffled, cut into stretches of 32 batches, and each is sorted by length; then the batches are
    shuffled. A run reads one epoch right after the other, so the samples that are too few for a batch come last, and
    the next epoch begins with as many as complete it.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int):
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0
        self.used = [i for i, length in enumerate(lengths) if length]

    def set_epoch(self, epoch: int) -> None:
        """As PackOrder's."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.used)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        drawn, order = random.Random(f"lengths/{self.seed}/{self.epoch}"), self.used.copy()
        drawn.shuffle(order)
        begin = min(-self.epoch * len(order) % self.batch_size, len(order))
        end = begin + (len(order) - begin) // self.batch_size * self.batch_size
        batches, stretch = [], self.batch_size * BATCHES_SORTED
        for start in range(begin, end, stretch):
            near = sorted(order[start : min(start + stretch, end)], key=self.lengths.__getitem__)
            batches += [near[i : i + self.batch_size] for i in range(0, len(near), self.batch_size)]
        drawn.shuffle(batches)
        return iter([(self.epoch, index) for batch in (order[:begin], *batches, order[end:]) for index in batch])


class PackedClips(Dataset):
    """The packs of a plan, built from the clips' samples. An item is a function of (epoch, indices) alone.

    A record that gives no sample after all is left out and listed, and its room stays empty; where a pack loses all
    its records, one is drawn in their place as Samples does.

    Args:
        clips: the samples; none of them is longer than the budget.
        budget: tokens of a pack; what does not fit (a video changed after the plan was made) is left out and listed.
        num_packs: of an epoch.
    """

    def __init__(self, clips: Samples, budget: int, num_packs: int):
        self.clips, self.budget, self.num_packs = clips, budget, num_packs

    def __len__(self) -> int:
        return self.num_packs

    def __getitem__(self, key: tuple[int, tuple[int, ...]]) -> Pack:
        epoch, indices = key
        samples, skips, space = [], [], self.budget
        for index in indices:
            sample = self.clips.sample(index, epoch)
            if isinstance(sample, Sample) and len(sample.tokens) > space:
                record, why = self.clips.records[index], f"{len(sample.tokens)} tokens, its pack has room for {space}"
                sample = Skip.of(record, UserError(f"the sample has {why}"))
            if isinstance(sample, Skip):
                skips.append(sample)
                continue
            samples.append(sample)
            space -= len(sample.tokens)
        if samples:
            return Pack(tuple(samples), tuple(skips))
        draw = self.clips[epoch, indices[0]]
        return Pack(draw.samples, (*skips, *draw.skips))
