"""What engines call of a model: look at a step's picture, feed rows of one session or of many, make a cache.

Rows for deeper layers of the LLM, where a family has such, stand beside the embeddings: who carries a token from a
look to a feed carries both and opens neither.
Legend: Q new tokens, D width, W = (1 + num_deep) D, V vocabulary.
"""

import itertools
from collections.abc import Sequence

import torch
from torch.nn.functional import pad

from swwatch.model.batched import SessionBatch
from swwatch.model.cache import StreamCache
from swwatch.model.upstream import attention_of, mask_as_it_is
from swwatch.model.vision_tower import VideoFeatures, layout_of, seen_by
from swwatch.policies.see.policy import TowerState
from swwatch.rules.chosen import chosen, sent
from swwatch.rules.layout import Kind, Layout


class StreamingMixin:
    """The part of a Watching that streams: a model.protocols.StreamingModel."""

    static = False
    watches_aside = False
    num_deep = 0
    quantised: str | None = None  # a name of model.checks.QUANTISED
    packed = False  # whether some layers are PackedLinear

    @torch.no_grad()
    def watch_video(
        self, pixel_values: torch.Tensor, grid_thw: torch.Tensor, reuse: TowerState | None = None
    ) -> torch.Tensor:
        """Vision tower and merger: pixels (patches, D) -> embeddings (merged tokens, W) of one or more steps.

        Args:
            reuse: of a SEE policy that runs the tower's blocks, for one step; None: they run as they are.
        """
        device, dtype = self.model.visual.device, self.model.visual.dtype
        pixel_values = sent(pixel_values, device)
        if reuse is None and attention_of(self.config.vision_config) != "sdpa":
            return self.features(pixel_values, grid_thw.to(device))
        grid_thw = grid_thw.cpu()
        return seen_by(self, pixel_values.to(dtype), grid_thw, layout_of(self, grid_thw, device), reuse)

    def features(self, pixel_values: torch.Tensor, grid_thw: torch.Tensor) -> torch.Tensor:
        """`watch_video` where pixels and model are on one device, for training too."""
        found = self.model.get_video_features(pixel_values, grid_thw)
        embeds = torch.cat(found.pooler_output)
        return torch.cat([embeds, *found.deepstack_features], dim=-1) if self.num_deep else embeds

    def llm_inputs(self, embeds: torch.Tensor, shown: torch.Tensor) -> dict:
        """What the LLM is given of rows.

        Args:
            embeds: (B, Q, W).
            shown: (B, Q) bool, on the CPU: which of them are video.
        """
        if not self.num_deep:
            return {"inputs_embeds": embeds}
        width = embeds.shape[-1] // (1 + self.num_deep)
        inputs = {"inputs_embeds": embeds[..., :width]}
        if not bool(shown.any()):
            return inputs
        places = chosen(shown.flatten(), embeds.device)
        return inputs | {"deep": (places, embeds.flatten(0, 1)[places][:, width:].split(width, dim=-1))}

    def mask_as_it_is(self, mask) -> dict:
        """What makes transformers hand `mask` to the attention of every layer of the LLM as it is."""
        return mask_as_it_is(self.config.text_config, mask)

    def begin_watching(
        self, pixel_values: torch.Tensor, grid_thw: torch.Tensor, reuse: TowerState | None = None
    ) -> VideoFeatures:
        """`watch_video` for a caller that has other work meanwhile. This model has no stream to do it beside."""
        return VideoFeatures(self.watch_video(pixel_values, grid_thw, reuse))

    @torch.no_grad()
    def step(
        self,
        cache: StreamCache,
        rows: Layout,
        embeds: torch.Tensor,
        predicts: int | range | None = -1,
        decides: int | None = None,
    ) -> torch.Tensor | None | tuple[torch.Tensor | None, torch.Tensor]:
        """Feed new tokens of one session to the LLM.

        Args:
            cache: the session's cache; `rows` are added to it.
            rows: Layout of the Q new tokens.
            embeds: (Q, W) their embeddings.
            predicts: index of the row whose logits are wanted; a range: of n such rows; None: none are.
            decides: index of the row after which the chance of "not yet" is wanted, see `not_yet`; None: none is.
        Returns:
            (V,) float32 logits after that row, (n, V) of a range, or None; with `decides` that and the chance.
        """
        hidden = self.model.language_model(
            **self.llm_inputs(embeds[None], rows.where(Kind.VIDEO)[None]),
            position_ids=sent(rows.position_ids[:, None], embeds.device),
            attention_mask=self._admit(cache, rows, embeds.device),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        wanted = chosen(predicts, hidden.device) if isinstance(predicts, range) else predicts
        logits = None if wanted is None else self.lm_head(hidden[0, wanted]).float()
        return logits if decides is None else (logits, self.not_yet(hidden[0, decides]))

    def _admit(self, cache: StreamCache, rows: Layout, device: torch.device) -> torch.Tensor | None:
        """Announce rows to a cache; returns their mask (1, 1, Q, K), as the attention of every layer takes it."""
        mask = sent(cache.admit(rows), device)
        backend = self.attention
        if backend == "flash_attention_2":
            return None  # causal by check_attention, and aligned to the end of the keys
        if backend == "sdpa" and device.type == "cpu":  # else every layer makes the same of it
            return torch.where(mask, torch.zeros((), dtype=self.dtype), -torch.inf)
        return self.backend_mask(mask)

    def not_yet(self, hidden: torch.Tensor) -> torch.Tensor:
        """States (D,) after the last norm -> the chance that it is too early to speak: of another picture as the next
        token, or by the model's head for it. 0-d, float32."""
        if self.decision_head is not None:
            return torch.sigmoid(-self.decision_head(hidden)[0].float())
        return self.lm_head(hidden).float().softmax(-1)[self.markup.video]

    @torch.no_grad()
    def step_many(
        self,
        caches: Sequence[StreamCache],
        rows: Sequence[Layout],
        embeds: Sequence[torch.Tensor],
        predicts: Sequence[int | range | None] | None = None,
        decides: Sequence[int | None] | None = None,
    ) -> list[torch.Tensor | None | tuple[torch.Tensor | None, torch.Tensor]]:
        """`step` for n sessions in one forward.

        Args:
            caches: n different caches; each takes in its own rows.
            rows: n layouts of Q_1 .. Q_n new tokens.
            embeds: n tensors (Q_i, W).
            predicts, decides: n times what `step` takes; by default the last row of each, and none.
        Returns:
            n times what `step` returns.
        """
        predicts, decides = predicts or [-1] * len(caches), decides or [None] * len(caches)
        if len(caches) == 1:
            return [self.step(caches[0], rows[0], embeds[0], predicts[0], decides[0])]
        device, text = embeds[0].device, self.model.language_model
        masks = [self._admit(cache, new, device) for cache, new in zip(caches, rows, strict=True)]
        sizes, shown = [len(new) for new in rows], torch.cat([new.where(Kind.VIDEO) for new in rows])
        hidden = text(
            **self.llm_inputs(torch.cat(list(embeds))[None], shown[None]),
            position_ids=sent(torch.cat([new.position_ids for new in rows], dim=1)[:, None], device),
            attention_mask=self.mask_as_it_is(masks),
            past_key_values=SessionBatch(caches, sizes),
            use_cache=True,
        ).last_hidden_state
        begins = list(itertools.accumulate(sizes, initial=0))
        indices = [() if i is None else i if isinstance(i, range) else (i,) for i in predicts]
        wanted = [begin + i % n for begin, n, some in zip(begins, sizes, indices, strict=False) for i in some]
        answers: list = [None] * len(caches)
        if wanted:
            logits = self.lm_head(hidden[0, chosen(wanted, device)]).float()
            both = zip(predicts, logits.split([len(some) for some in indices]), strict=True)
            answers = [None if i is None else after if isinstance(i, range) else after[0] for i, after in both]
        for number, row in enumerate(decides):
            if row is not None:
                answers[number] = answers[number], self.not_yet(hidden[0, begins[number] + row % sizes[number]])
        return answers

    def another(self) -> "StreamingMixin":
        """For another thread: weights are only read, and nothing is kept between calls."""
        return self

    @property
    def plain(self) -> "StreamingMixin":
        """The model itself, which a CudaGraphModel is around."""
        return self

    def new_cache(self, endless: bool = False, moves: bool = True) -> StreamCache:
        """An empty cache for one session; `endless`: tokens will go; `moves`: and the others stand elsewhere then, so
        that it must be one that can be re-indexed, whose keys take twice the memory."""
        rotary = self.model.language_model.rotary_emb if endless else None
        return StreamCache(self.config.text_config.num_hidden_layers, rotary, moves)

    def embed(self, ids) -> torch.Tensor:
        """(Q,) token ids -> (Q, W) embeddings."""
        table = self.get_input_embeddings()
        embeds = table(chosen(ids, table.weight.device))
        return pad(embeds, (0, self.num_deep * embeds.shape[-1])) if self.num_deep else embeds
