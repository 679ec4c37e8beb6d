"""What engines call of a model: look at a step's picture, feed rows of one session or of many, make a cache.

Legend: Q new tokens, D width, V vocabulary.
"""

import itertools
from collections.abc import Sequence

import torch

from swwatch.model.batched import SessionBatch
from swwatch.model.cache import StreamCache
from swwatch.model.upstream import mask_as_it_is
from swwatch.model.vision_tower import VideoFeatures
from swwatch.rules.layout import Layout


class Streaming:
    """The part of a Watching that streams. CudaGraphModel has the same methods.

    Attributes:
        watches_aside: what `begin_watching` begins goes on beside other forwards.
    """

    watches_aside = False

    @torch.no_grad()
    def watch_video(self, pixel_values: torch.Tensor, grid_thw: torch.Tensor) -> torch.Tensor:
        """Vision tower and merger: pixels (patches, D) -> embeddings (merged tokens, D) of one or more steps."""
        device = self.model.visual.device
        features = self.model.get_video_features(pixel_values.to(device), grid_thw.to(device)).pooler_output
        return torch.cat(features)

    def begin_watching(self, pixel_values: torch.Tensor, grid_thw: torch.Tensor) -> VideoFeatures:
        """`watch_video` for a caller that has other work meanwhile. This model has no stream to do it beside."""
        return VideoFeatures(self.watch_video(pixel_values, grid_thw))

    @torch.no_grad()
    def step(
        self, cache: StreamCache, rows: Layout, embeds: torch.Tensor, predicts: int | None = -1
    ) -> torch.Tensor | None:
        """Feed new tokens of one session to the LLM.

        Args:
            cache: the session's cache; `rows` are added to it.
            rows: Layout of the Q new tokens.
            embeds: (Q, D) their embeddings.
            predicts: index of the row whose logits are wanted; None: none are.
        Returns:
            (V,) float32 logits after that row, or None.
        """
        mask = cache.admit(rows).to(embeds.device)
        if self.attention == "flash_attention_2":
            mask = None  # causal by check_attention, and aligned to the end of the keys
        hidden = self.model.language_model(
            inputs_embeds=embeds[None],
            position_ids=rows.position_ids[:, None].to(embeds.device),
            attention_mask=self.backend_mask(mask),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return None if predicts is None else self.lm_head(hidden[0, predicts]).float()

    @torch.no_grad()
    def step_many(
        self,
        caches: Sequence[StreamCache],
        rows: Sequence[Layout],
        embeds: Sequence[torch.Tensor],
        predicts: Sequence[int | None] | None = None,
    ) -> list[torch.Tensor | None]:
        """`step` for n sessions in one forward.

        Args:
            caches: n different caches; each takes in its own rows.
            rows: n layouts of Q_1 .. Q_n new tokens.
            embeds: n tensors (Q_i, D).
            predicts: n indices of the rows whose logits are wanted, None where none are; by default the last of each.
        Returns:
            n times (V,) float32 logits after that row, or None.
        """
        predicts = predicts or [-1] * len(caches)
        if len(caches) == 1:
            return [self.step(caches[0], rows[0], embeds[0], predicts[0])]
        device, text = embeds[0].device, self.model.language_model
        masks = [cache.admit(new).to(device) for cache, new in zip(caches, rows, strict=True)]
        if self.attention == "flash_attention_2":
            masks = [None] * len(caches)  # as in `step`
        sizes = [len(new) for new in rows]
        hidden = text(
            inputs_embeds=torch.cat(list(embeds))[None],
            position_ids=torch.cat([new.position_ids for new in rows], dim=1)[:, None].to(device),
            attention_mask=mask_as_it_is(text.config, [self.backend_mask(mask) for mask in masks]),
            past_key_values=SessionBatch(caches, sizes),
            use_cache=True,
        ).last_hidden_state
        begins = itertools.accumulate(sizes, initial=0)
        wanted = [begin + i % n for begin, n, i in zip(begins, sizes, predicts, strict=False) if i is not None]
        if not wanted:
            return [None] * len(caches)
        logits = iter(self.lm_head(hidden[0, torch.tensor(wanted).to(device)]).float())
        return [None if i is None else next(logits) for i in predicts]

    def another(self) -> "Streaming":
        """For another thread: weights are only read, and nothing is kept between calls."""
        return self

    @property
    def plain(self) -> "Streaming":
        """The model itself, which a CudaGraphModel is around."""
        return self

    def new_cache(self, endless: bool = False, moves: bool = True) -> StreamCache:
        """An empty cache for one session; `endless`: tokens will go; `moves`: and the others stand elsewhere then, so
        that it must be one that can be re-indexed, whose keys take twice the memory."""
        rotary = self.model.language_model.rotary_emb if endless and moves else None
        return StreamCache(self.config.text_config.num_hidden_layers, rotary)

    def embed(self, ids) -> torch.Tensor:
        """(Q,) token ids -> (Q, D) embeddings."""
        table = self.get_input_embeddings()
        return table(torch.as_tensor(ids, dtype=torch.int64, device=table.weight.device))
