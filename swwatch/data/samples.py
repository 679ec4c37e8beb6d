"""What a training sample is, and a data set whose items are a function of (epoch, index) alone.

So neither the order of reading, nor workers, nor a restart can change a sample, its question or its replacement.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import Dataset

from swwatch.data.prompt import IGNORED
from swwatch.data.reading import Reading
from swwatch.data.video import VideoError
from swwatch.errors import UserError
from swwatch.rules.layout import Layout
from swwatch.rules.patch import Patch

MAX_REPLACEMENTS = 20  # unusable draws in a row: by chance 1e-40 where 1 % of a file is bad

Size = tuple[int, int, int]  # of a clip: frames on the grid, height, width


@dataclass(frozen=True)
class Sample:
    """One clip with its caption, laid out for a variant. L tokens.

    Attributes:
        input_ids: (L,) int64.
        labels: (L,) int64, unshifted; prompt.IGNORED where there is no loss.
        tokens: Layout of the L tokens.
        pixel_values: (patches, D) float32, normalised.
        video_grid_thw: (1, 3) int64, patches before the spatial merge.
        num_cut: seconds that the end of the video lost to max_length.
        patches: of each step of the video; none where all of its tokens are kept, or a policy decides late.
        decisions: (L,) float32 of data.timed.decisions_of, where the SPEAK policy is learned.
        weights: (L,) float32, of each token in the loss; None: 1.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    tokens: Layout
    pixel_values: torch.Tensor
    video_grid_thw: torch.Tensor
    num_cut: int = 0
    patches: tuple[Patch, ...] = ()
    decisions: torch.Tensor | None = None
    weights: torch.Tensor | None = None

    @property
    def num_learned(self) -> int:
        """Places that count in the loss: words, and decisions."""
        words = int((self.labels[1:] != IGNORED).sum())
        return words if self.decisions is None else words + int(self.decisions.count_nonzero())


@dataclass(frozen=True)
class Skip:
    """A record that gave no sample."""

    video_id: str
    path: str
    reason: str

    @classmethod
    def of(cls, record: dict, error: UserError) -> "Skip":
        video_id, path = str(record["video_id"]), str(record.get("video_path"))
        if isinstance(error, VideoError):
            return cls(video_id, str(error.path), error.reason)
        return cls(video_id, path, str(error))


@dataclass(frozen=True)
class Draw:
    """What the dataset returns: a sample, and the records passed over on the way to it. No sample: gave up."""

    sample: Sample | None
    skips: tuple[Skip, ...] = ()

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All samples of the draw: one, or none where it gave up."""
        return () if self.sample is None else (self.sample,)


def too_many(what: str, carriers: int) -> str:
    """Why a clip gives no sample where each of its patches is to have a carrier."""
    return (
        f"the clip has more {what} than keep carrier:{carriers} has carriers, of which none may go in a sample: raise "
        "that number, or leave the clip out"
    )


class Samples(Dataset, ABC):
    """The samples of records. Subclasses say how a record becomes one: `build`, `measure` and `counter`.

    A record that gives no sample is replaced by another one, drawn by (seed, epoch, index, attempt); what was passed
    over is returned with the sample.

    Args:
        records: a sequence of dicts with a `video_id`, whose items may raise UserError.
        data: their file, which their paths are relative to.
        seed: of the replacements.
    """

    def __init__(self, records: Sequence[dict], data: str | Path, seed: int):
        self.records, self.data, self.seed, self.reading = records, Path(data), seed, Reading()

    @abstractmethod
    def build(self, record: dict, epoch: int) -> Sample:
        """The sample of a record in an epoch.

        Raises:
            UserError: the record gives none.
        """

    @abstractmethod
    def measure(self, record: dict) -> Size:
        """The size of a record's clip, at the cost of its first frame.

        Raises:
            UserError: there is none.
        """

    @abstractmethod
    def counter(self) -> Callable[[Sequence[dict], Sequence[Size | str]], list[tuple[int, bool] | str]]:
        """What counts the tokens of records' samples, many at once.

        It takes records and the sizes of their clips, or why there is none, and gives for each its tokens, with the
        longest question that it may be asked and nothing dropped by a SEE policy, and whether it loses an end to the
        limits; or why it gives no sample.
        """

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> Draw:
        epoch, index = key
        skips = []
        for attempt in range(1, MAX_REPLACEMENTS + 1):
            sample = self.sample(index, epoch)
            if isinstance(sample, Sample):
                return Draw(sample, tuple(skips))
            skips.append(sample)
            # a contiguous run of bad records is common (one lost shard), so the next record would be a poor choice
            index = random.Random(f"replace/{self.seed}/{epoch}/{key[1]}/{attempt}").randrange(len(self))
        return Draw(None, tuple(skips))

    def sample(self, index: int, epoch: int) -> Sample | Skip:
        """The sample of a record in an epoch, or why it gives none."""
        record = self.record(index)
        if isinstance(record, Skip):
            return record
        self.reading.note(index)
        try:
            return self.build(record, epoch)
        except UserError as error:
            return Skip.of(record, error)
        except Exception as error:  # a mistake of ours, maybe in a worker: the traceback tells on which clip
            error.add_note(f"while reading {self.name(index)} of {self.data}")
            raise

    def record(self, index: int) -> dict | Skip:
        """A record, or why its line is none."""
        try:
            return self.records[index]
        except UserError as error:
            return Skip(f"record {index + 1}", str(self.data), str(error))

    def name(self, index: int) -> str:
        """A record for a message."""
        record = self.record(index)
        return (
            record.video_id
            if isinstance(record, Skip)
            else f"video_id {record['video_id']}, {record.get('video_path')}"
        )
