"""Samples to a padded batch, with the positions and the mask of their layouts."""

from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from swwatch.data.batch import stack_layouts
from swwatch.data.dataset import Draw, Sample
from swwatch.data.prompt import IGNORED


@dataclass(frozen=True)
class Collator:
    """Pads on the right.

    Attributes:
        pad_id: token id at padding.
        dense_mask: give the (B, 1, L, L) mask. False gives the (B, L) padding mask that flash-attention takes, which
            is exact for the causal variants only.
    """

    pad_id: int
    dense_mask: bool = True

    def __call__(self, draws: list[Draw]) -> dict:
        """Collate B draws.

        Returns:
            The model's inputs: input_ids, labels (B, L) int64; position_ids (3, B, L) int64; attention_mask
            (B, 1, L, L) bool, true where a row may attend, or (B, L); pixel_values_videos (patches, D) float32;
            video_grid_thw (B, 3). And `skips`, a list of Skip, which the trainer takes out. Where a draw gave up and
            has no sample, `skips` is all there is.
        """
        skips = [skip for draw in draws for skip in draw.skips]
        samples = [draw.sample for draw in draws if draw.sample is not None]
        if len(samples) < len(draws):
            return {"skips": skips}
        return self.batch(samples) | {"skips": skips}

    def batch(self, samples: list[Sample]) -> dict[str, torch.Tensor]:
        input_ids = pad_sequence([s.input_ids for s in samples], batch_first=True, padding_value=self.pad_id)
        position_ids, mask = stack_layouts([s.tokens for s in samples])
        if not self.dense_mask:
            lengths = torch.tensor([len(s.tokens) for s in samples])
            mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()
        return {
            "input_ids": input_ids,
            "labels": pad_sequence([s.labels for s in samples], batch_first=True, padding_value=IGNORED),
            "position_ids": position_ids,
            "attention_mask": mask,
            "pixel_values_videos": torch.cat([s.pixel_values for s in samples]),
            "video_grid_thw": torch.cat([s.video_grid_thw for s in samples]),
        }
