"""Samples to a batch: rows of one sample or of several, with the positions and columns of their layouts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from swwatch.data.batch import stack_rows
from swwatch.data.dataset import Draw, Sample
from swwatch.data.packing import Pack
from swwatch.data.prompt import IGNORED
from swwatch.policies.see.seen import kept_features


@dataclass(frozen=True)
class Collator:
    """Puts the samples of a pack behind one another in a row, and pads rows on the right.

    Nothing here depends on the attention backend: the model makes its own mask from the columns.

    Attributes:
        pad_id: token id at padding.
        multiple: rows are padded to a multiple of it; FlexAttention's kernels are compiled for fewer shapes with 128.
    """

    pad_id: int
    multiple: int = 1

    def __call__(self, drawn: list[Draw] | list[Pack]) -> dict:
        """Collate B draws or packs into as many rows.

        Returns:
            `rows` of their samples; and for the trainer, which takes them out, `skips`, a list of Skip, and `counts`
            of samples, tokens and padding. Where a draw gave up and has no sample, `skips` is all there is.
        """
        skips = [skip for item in drawn for skip in item.skips]
        rows = [item.samples for item in drawn]
        if not all(rows):
            return {"skips": skips}
        batch, samples = self.rows(rows), [sample for row in rows for sample in row]
        num_tokens = sum(len(sample.tokens) for sample in samples)
        counts = {"samples": len(samples), "tokens": num_tokens, "padding": batch["input_ids"].numel() - num_tokens}
        return batch | {"skips": skips, "counts": counts}

    def batch(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """`rows` of one sample each: a padded batch."""
        return self.rows([[sample] for sample in samples])

    def rows(self, rows: Sequence[Sequence[Sample]]) -> dict[str, torch.Tensor]:
        """The model's inputs for B rows of samples.

        Returns:
            input_ids, labels (B, L) int64; position_ids (3, B, L) int64; columns (B, 5, L) int64, see batch.COLUMNS;
            pixel_values_videos (patches, D) float32 and video_grid_thw (samples, 3), row by row; and where the SEE
            policy drops tokens, kept (K,) int64: which of all merged tokens the rows hold; where the SPEAK policy is
            learned, decisions (B, L) float32 of data.timed; where tokens weigh other than 1, weights (B, L) float32.
        """
        samples = [sample for row in rows for sample in row]
        longest = max(sum(len(sample.tokens) for sample in row) for row in rows)
        length = -(-longest // self.multiple) * self.multiple
        indices = kept_features(patch for sample in samples for patch in sample.patches)
        position_ids, columns = stack_rows([[sample.tokens for sample in row] for row in rows], length)
        more = {} if indices is None else {"kept": torch.tensor(indices, dtype=torch.int64)}
        if samples[0].decisions is not None:
            more["decisions"] = self._side_by_side([[s.decisions for s in row] for row in rows], length, 0)
        if any(sample.weights is not None for sample in samples):
            weights = [[torch.ones(len(s.tokens)) if s.weights is None else s.weights for s in row] for row in rows]
            more["weights"] = self._side_by_side(weights, length, 0)
        return {
            "input_ids": self._side_by_side([[s.input_ids for s in row] for row in rows], length, self.pad_id),
            "labels": self._side_by_side([[s.labels for s in row] for row in rows], length, IGNORED),
            "position_ids": position_ids,
            "columns": columns,
            "pixel_values_videos": torch.cat([s.pixel_values for s in samples]),
            "video_grid_thw": torch.cat([s.video_grid_thw for s in samples]),
        } | more

    @staticmethod
    def _side_by_side(rows: list[list[torch.Tensor]], length: int, padding: int) -> torch.Tensor:
        joined = pad_sequence([torch.cat(row) for row in rows], batch_first=True, padding_value=padding)
        return torch.nn.functional.pad(joined, (0, length - joined.shape[1]), value=padding)
