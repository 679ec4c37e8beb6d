"""Conversations as training samples of systems that stream in turns: commentaries and ordinary chat, mixed at will."""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from swwatch.data.annotations import resolve_video
from swwatch.data.budget import BUDGETS, PixelBudget
from swwatch.data.dataset import EncodedClips
from swwatch.data.frame_cache import FrameCache
from swwatch.data.pixels import FrameEncoder, merged_grids
from swwatch.data.prompt import IGNORED
from swwatch.data.samples import Sample, Samples, Size, too_many
from swwatch.data.seek_jsonl import Conversations
from swwatch.data.stills import read_picture
from swwatch.data.turns import conversation
from swwatch.data.turns.samples import SampleFormat
from swwatch.data.video import FRAMES_PER_STEP, READERS, iter_steps, measure
from swwatch.errors import UserError
from swwatch.rules.cursor import layout_of
from swwatch.rules.spans import Part, Span, ids_of
from swwatch.rules.systems import SYSTEMS, System
from swwatch.rules.turn_positions import TurnPositions


def training_budget(name: str) -> PixelBudget:
    """The pixel budget of training clips: a system's own shares a total among a clip's frames; others are as live.

    Args:
        name: of data.budget.BUDGETS.
    """
    budget = BUDGETS[name]
    if name not in SYSTEMS or SYSTEMS[name].total_pixels is None:
        return budget
    return replace(budget, max_pixels=None, total_pixels=SYSTEMS[name].total_pixels)


class TurnDataset(Samples):
    """The samples of conversations.

    A conversation whose video or image cannot be read, in which nothing is said, or that is longer than the limits
    gives none. An image is read as a step of video that stands still, and the last frame of a clip, where it is odd,
    as a step that stands still.

    Args:
        records: of data.seek_jsonl.
        form: conversation -> spans; of its fps clips are read.
        policy: where tokens stand; t_step: see rules.families.
        encoder: frames -> pixel values; merge: spatial_merge_size.
        max_frames: frames of a clip; reader: of data.video.READERS.
        seed, cache_gb, frame_cache, video_root: as ClipDataset's.
        thought_weight: of a thought's tokens in the loss, in systems that think; an answer's weigh 1.
        carriers: where each patch gets a carrier, which the model adds to a sample (model.late): turns at most.
    """

    def __init__(
        self,
        records: Conversations,
        *,
        form: SampleFormat,
        policy: TurnPositions,
        encoder: FrameEncoder,
        merge: int,
        t_step: float,
        max_frames: int = System.max_frames,
        reader: str = READERS[0],
        seed: int = 0,
        cache_gb: float = 0.0,
        frame_cache: FrameCache | None = None,
        video_root=None,
        thought_weight: float = 1.0,
        carriers: int | None = None,
    ):
        super().__init__(records, records.files[0].path, seed)
        self.form, self.policy, self.encoder, self.merge, self.t_step = form, policy, encoder, merge, t_step
        self.max_frames, self.reader, self.video_root = max_frames, reader, video_root
        self.thought_weight, self.carriers = thought_weight, carriers
        self.cache, self.frame_cache = EncodedClips(cache_gb), frame_cache

    def build(self, record: dict, epoch: int) -> Sample:
        """The sample of a record; the epoch changes nothing, but for systems that answer aside: of these a record has
        a sample for each thought and each answer, one of which is drawn.

        Raises:
            UserError: the record gives none, see above.
        """
        dialogue = conversation.read(record)
        pixel_values, grid_thw = self.clip(record)
        grids = merged_grids(grid_thw, self.merge)
        whole, start_s = (len(grids), *grids[0]), conversation.span_of(record)[0]
        if self.form.turns.system.aside and isinstance(dialogue, conversation.Commentary):
            slices = self.form.slices(dialogue, whole, start_s)
            number = random.Random(f"slice/{self.seed}/{epoch}/{record['video_id']}").randrange(len(slices))
            (spans, shown), cut = slices[number], False
        else:
            spans, count, cut = self.form.spans(dialogue, whole, start_s)
            shown = range(count)
        unseen = len(grids) - len(shown)
        if unseen:  # patches are in the order of time, and each second's are its own
            size = len(pixel_values) // len(grids)
            pixel_values = pixel_values[size * shown.start : size * shown.stop].clone()
            grid_thw = grid_thw - torch.tensor([[unseen, 0, 0]])
        self._num_carriers(spans)
        where, _ = self.policy.place(spans, 0, self.t_step)
        tokens = layout_of(spans, where, 0, 0 if self.policy.apart else None)
        if self.carriers is not None:
            tokens = replace(tokens, sees=turns_seen(spans))
        ids = torch.tensor(ids_of(spans), dtype=torch.int64)
        answers = torch.tensor([span.part is Part.ANSWER for span in spans for _ in span.ids])
        labels = torch.where(answers, ids, IGNORED)
        return Sample(ids, labels, tokens, pixel_values, grid_thw, unseen if cut else 0, weights=self._weights(spans))

    def _weights(self, spans: Sequence[Span]) -> torch.Tensor | None:
        """(L,) of each token in the loss; None: 1."""
        if self.thought_weight == 1 or not self.form.turns.system.thinks:
            return None
        rounds = {span.round for span in spans if span.part is Part.QUERY}
        thoughts = torch.tensor([span.round >= 0 and span.round not in rounds for span in spans for _ in span.ids])
        return torch.where(thoughts, self.thought_weight, 1.0)

    def _num_carriers(self, spans: Sequence[Span]) -> int:
        """Tokens that a sample gets more. Raises UserError: it has more turns than there are carriers for."""
        if self.carriers is None:
            return 0
        if len({span.round for span in spans if span.grid}) > self.carriers:
            raise UserError(too_many("turns of video", self.carriers))
        return sum(span.grid[0] for span in spans if span.grid)

    def measure(self, record: dict) -> Size:
        """As Samples.measure."""
        path = self._path(record)
        if conversation.media_of(record)["type"] == "image":
            return (FRAMES_PER_STEP, *_image(path).shape[1:3])
        return measure(path, span=conversation.span_of(record), **self._how)

    def counter(self):
        """As Samples.counter."""
        return self._count

    def clip(self, record: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """(pixel_values (patches, D), video_grid_thw (1, 3)) of a record's clip, from a cache where it is there."""
        span = conversation.span_of(record)
        key = f"{record['file']} {record['video_path']} {span}"
        clip = self.cache.get(key)
        if clip is None:
            path = self._path(record)
            if conversation.media_of(record)["type"] == "image":
                clip = self.encoder.encode(_image(path), FRAMES_PER_STEP)
            elif self.frame_cache is None:
                clip = self.encoder.patches(self._frames(path, span))
            else:
                clip = self.encoder.patches(self.frame_cache.get(path, lambda: self._frames(path, span), span))
            self.cache.put(key, clip)
        return clip

    def _frames(self, path, span) -> torch.Tensor:
        return self.encoder.resize_steps(iter_steps(path, span=span, **self._how))

    @property
    def _how(self) -> dict:
        return {"max_frames": self.max_frames, "reader": self.reader, "fill_up": True, "fps": self.form.fps}

    def _path(self, record: dict):
        return resolve_video(record["video_path"], record["file"], self.video_root)

    def _count(self, records: Sequence[dict], sizes: Sequence[Size | str]) -> list[tuple[int, bool] | str]:
        pairs = zip(records, sizes, strict=True)
        return [size if isinstance(size, str) else self._length(record, size) for record, size in pairs]

    def _length(self, record: dict, size: Size) -> tuple[int, bool] | str:
        num_frames, height, width = size
        try:
            rows, columns = self.encoder.size(height, width, num_frames)
            grid = num_frames // FRAMES_PER_STEP, rows // self.encoder.factor, columns // self.encoder.factor
            dialogue, start_s = conversation.read(record), conversation.span_of(record)[0]
            spans, _, cut = self.form.spans(dialogue, grid, start_s)
            return sum(map(len, spans)) + self._num_carriers(spans), cut
        except UserError as error:
            return str(error)


def turns_seen(spans: Sequence[Span]) -> torch.Tensor:
    """(L,) the newest turn that a token may see where patches have carriers: that of the token which it predicts. The
    last word of an answer is read with the next turn, when the patches of its own are gone."""
    turns = [max(span.round, 0) + (span.part is Part.CLOSE) for span in spans for _ in span.ids]
    return torch.tensor([*turns[1:], *turns[-1:]])


def _image(path) -> np.ndarray:
    """An image as the two frames of a step, (2, H, W, 3) uint8."""
    return np.stack([read_picture(path)] * FRAMES_PER_STEP)
