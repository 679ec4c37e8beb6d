"""Models that carry a variant: transformers' own, with positions and masks from rules.variants.

Families are in model/families; nothing of their modelling code is copied. transformers' `get_rope_index` changed its
rule between releases and its `generate` disagrees with a cached forward, so positions never come from there.
Legend: B batch, L sequence, Q new tokens, K keys, D width.
"""

import itertools
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import AutoTokenizer, PretrainedConfig
from transformers.modeling_outputs import CausalLMOutputWithPast

from swwatch.data.batch import stack_rows
from swwatch.data.pixels import merged_grids
from swwatch.data.prompt import Markup, parse
from swwatch.errors import UserError
from swwatch.model.attention import (
    BACKENDS,
    block_mask,
    check_attention,
    dense_mask,
    flash_segments,
    split_samples,
)
from swwatch.model.late import look
from swwatch.model.loss import batch_loss
from swwatch.model.settings import OVERRIDES, Settings
from swwatch.model.streaming import StreamingMixin
from swwatch.model.upstream import attention_of, set_attention, swap_class
from swwatch.model.vision_attention import LinearPatchEmbed
from swwatch.policies.see.seen import kept_features, see_video
from swwatch.rules import variants
from swwatch.rules.families import FAMILIES, Family, t_step
from swwatch.rules.layout import Layout
from swwatch.rules.patch import Patch


class Watching(StreamingMixin):
    """What all families share: a model in one of the variants. See model.families for what a family says.

    `forward` derives positions and mask from token ids and grids when they are not given, by the same rule that the
    training collator and the streaming engines use. What engines call is in StreamingMixin.

    Attributes:
        loss_way: "whole" (transformers' own), or a way of model.loss.token_loss.
        family, text_attention, vision_attention: see model.families.
        thought_weight: what a token that is thought counts in the loss, where a word counts 1.
        decision_head: D -> 1, where the SPEAK policy has such.
    """

    loss_way, thought_weight = "whole", 1.0
    family: Family
    text_attention: type
    vision_attention: type

    def __init__(self, config: PretrainedConfig):
        super().__init__(config)
        swap_class(self.model.visual.patch_embed.proj, LinearPatchEmbed)
        for block in self.model.visual.blocks:
            swap_class(block.attn, self.vision_attention)
        for layer in self.model.language_model.layers:
            swap_class(layer.self_attn, self.text_attention)
        self.loss_type = "ForCausalLM"  # transformers guesses it from the class name
        saved = getattr(config, "swwatch", None)
        if not saved:
            raise UserError("this configuration names no variant: use from_pretrained(path, variant=...)")
        self.settings = Settings.resolve(saved)
        self.markup = Markup.read(saved["markup"])
        has_head = self.settings.schedule.has_head
        self.decision_head = nn.Linear(config.text_config.hidden_size, 1) if has_head else None

    @classmethod
    def from_pretrained(cls, path, *args, **kwargs):
        """Load a folder or hub id of this family.

        Args:
            path: folder or hub id; its tokenizer is read for the special token ids, unless it is given as `tokenizer`.
            kwargs: those of OVERRIDES (variant, schedule, ...), see Settings.resolve; what config.json knows may be
                left out.
            args, kwargs: else as transformers' own (dtype, attn_implementation, device_map, ...).
        Raises:
            UserError: no variant known, a contradiction with the checkpoint, or an attention backend that cannot
                execute the variant's mask.
        """
        hub = {key: kwargs[key] for key in ("revision", "token", "cache_dir", "local_files_only") if key in kwargs}
        config = kwargs.pop("config", None)
        if config is None:
            config = cls.config_class.from_pretrained(path, **hub)
        known = Settings.resolve({"variant": "origin"} | (getattr(config, "swwatch", None) or {}))
        overrides = {key: kwargs.pop(key) for key in OVERRIDES if key in kwargs}
        tokenizer = kwargs.pop("tokenizer", None) or AutoTokenizer.from_pretrained(path, **hub)
        config = annotate(config, tokenizer, where=str(path), **overrides)
        attention = kwargs.pop("attn_implementation", "sdpa")
        check_attention(config.swwatch["variant"], attention)
        kwargs["attn_implementation"] = attention if attention != "flex" else "sdpa"
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(path, *args, config=config, output_loading_info=True, **kwargs)
        new = ["decision_head."] if model.decision_head is not None and not known.schedule.has_head else []
        if new:  # it is to be trained
            for parameter in model.decision_head.parameters():
                nn.init.zeros_(parameter)
        missing = [key for key in info["missing_keys"] if not key.startswith(tuple(new))]
        wrong = sorted(missing) + sorted(str(key) for key in info["mismatched_keys"])
        if wrong:  # transformers would go on with random numbers in their place
            raise UserError(f"{path}: {len(wrong)} weights are missing or of another shape, the first is {wrong[0]}")
        if attention == "flex":
            set_attention(model.config.text_config, BACKENDS["flex"])  # the vision tower stays with sdpa
        return (model, info) if wants_info else model

    def save_pretrained(self, save_directory, **kwargs):
        """As transformers', with the upstream class name in config.json, so that other tools load the folder too."""
        super().save_pretrained(save_directory, **kwargs)
        if (Path(save_directory) / "config.json").exists():  # not written by processes other than the main one
            self.config.architectures = [self.family.upstream]
            self.config.save_pretrained(save_directory)

    @property
    def attention(self) -> str:
        """The LLM's attention backend, a key of attention.BACKENDS."""
        running = attention_of(self.config.text_config)
        return next((ours for ours, theirs in BACKENDS.items() if theirs == running), running)

    @property
    def mergers(self) -> list[str]:
        """Names of the modules between vision tower and LLM."""
        deep = [f"model.visual.deepstack_merger_list.{number}" for number in range(self.num_deep)]
        return ["model.visual.merger", *deep]

    @property
    def t_per_step(self) -> float:
        """Temporal positions per step."""
        return t_step(self.config, self.settings.step_s)

    def patches(self, pixel_values: torch.Tensor | None, grids_thw: torch.Tensor | None) -> list[list[Patch]]:
        """What the SEE policy leaves of each video, step by step.

        Args:
            pixel_values: (patches, D) of all videos; may be None where the policy drops nothing.
            grids_thw: (videos, 3) patches before the merge.
        """
        merge, patches, begin = self.config.vision_config.spatial_merge_size, [], 0
        for grid in () if grids_thw is None else grids_thw:
            end = begin + int(grid.prod())
            pixels = None if pixel_values is None else pixel_values[begin:end]
            patches.append(see_video(self.settings.see, pixels, merged_grids(grid[None], merge)))
            begin = end
        return patches

    def layouts(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, patches: list[list[Patch]]
    ) -> list[Layout]:
        """Parse a padded batch (B, L) of one video per sample into its layouts.

        Args:
            attention_mask: (B, L), 0 at padding; None: no padding.
            patches: of each video; see `patches`.
        Raises:
            UserError: a sequence that the variant cannot have produced.
        """
        if len(patches) != len(input_ids):
            raise UserError(f"need one video per sample, got {len(patches)} grids for {len(input_ids)} sequences")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        rules = (self.markup, self.settings.variant, self.settings.schedule, self.t_per_step, self.settings.step_s)
        return [
            parse(ids[real.bool()], video, *rules)
            for ids, real, video in zip(input_ids, attention_mask, patches, strict=True)
        ]

    def embed_video(self, input_ids: torch.Tensor, places: torch.Tensor, features: torch.Tensor) -> dict:
        """What the LLM is given of sequences (B, L) with features (K, W) at K places (B, L)."""
        embeds = self.get_input_embeddings()(input_ids)
        features, *deep = features.split(embeds.shape[-1], dim=-1)
        embeds = embeds.masked_scatter(places[..., None], features.to(embeds))
        return {"inputs_embeds": embeds} | ({"deep": (places, deep)} if deep else {})

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        pixel_values_videos=None,
        video_grid_thw=None,
        columns=None,
        kept=None,
        labels=None,
        decisions=None,
        weights=None,
        **kwargs,
    ):
        """One forward over whole sequences.

        Args:
            input_ids: (B, L) in the variant's training order.
            position_ids: (3, B, L). Give it together with the columns or the mask, or leave all to the variant.
            columns: (B, 5, L) of data.batch.stack_rows; each backend makes its own mask from them.
            attention_mask: (B, 1, L, K) bool, true where a row may attend, or (B, L) padding mask (0 at padding).
            pixel_values_videos: (patches, D); video_grid_thw: (samples, 3), one video per sample.
            kept: (K,) int64, which merged tokens of all videos the sequences hold; None: all, or, where positions are
                left to the variant, those of the SEE policy. Where that decides late, all: rows that it drops are
                struck out here; and where the KEEP policy carries, each patch gets a row more behind it. Logits are of
                the rows as they are then.
            labels: (B, L); the loss is computed in the way `self.loss_way`, and without logits unless that is "whole".
            decisions: (B, L) float32 of data.timed: what rows decide, which counts in the loss beside the labels.
            weights: (B, L) float32, of each label in the sum; its divisor is the number of labels all the same.
        Raises:
            UserError: a sequence that cannot be parsed, explicit positions without the mask that belongs to them, a
                mask that the backend cannot execute, or a SEE policy that is for streams alone.
        """
        if position_ids is None:
            if input_ids is None or past_key_values is not None or columns is not None:
                raise UserError("positions can be derived from whole sequences of input_ids only: pass position_ids")
            whole = input_ids, attention_mask, pixel_values_videos, video_grid_thw
            (position_ids, columns, kept), attention_mask = self._laid_out(*whole), None
        if pixel_values_videos is not None:
            self.settings.see.check_training()
        seen = {}
        if kept is not None or self.settings.changes_rows and pixel_values_videos is not None:
            rows = {"input_ids": input_ids, "position_ids": position_ids, "columns": columns}
            rows |= {"labels": labels, "decisions": decisions, "weights": weights}
            rows, seen = look(self, rows, pixel_values_videos, video_grid_thw, kept)
            _, position_ids, columns, labels, decisions, weights = rows.values()
        if columns is not None:
            if attention_mask is not None:
                raise UserError("columns and attention_mask both say who may attend to whom: pass one of them")
            attention_mask, segments = self.masks_for(columns)
            kwargs |= segments
        elif attention_mask is None or attention_mask.ndim != 4:
            if variants.get(self.settings.variant).streams > 1:
                raise UserError(
                    f"{self.settings.variant!r} has a mask of its own: pass it (B, 1, L, K) with position_ids"
                )
        inputs = {
            "input_ids": input_ids,
            "attention_mask": self.backend_mask(attention_mask),
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "inputs_embeds": inputs_embeds,
            "pixel_values_videos": pixel_values_videos,
            "video_grid_thw": video_grid_thw,
        } | seen
        weighed = None if self.thought_weight == 1 else columns  # where thoughts count unlike words
        plain = decisions is None and weighed is None and weights is None
        if labels is None or self.loss_way == "whole" and plain:
            return super().forward(**inputs, labels=labels, **kwargs)
        num_items = kwargs.pop("num_items_in_batch", None)
        hidden = self.model(**inputs, **kwargs).last_hidden_state
        how = {"num_items": num_items, "way": "single" if self.loss_way == "whole" else self.loss_way}
        return CausalLMOutputWithPast(loss=batch_loss(self, hidden, labels, weighed, decisions, weights, **how))

    def _laid_out(
        self,
        input_ids: torch.Tensor,
        padding: torch.Tensor | None,
        pixel_values: torch.Tensor | None,
        grids_thw: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, list[int] | None]:
        """position_ids, columns and kept of `forward`, by the variant's rule."""
        if padding is not None and padding.ndim != 2:
            raise UserError("a 4-D mask needs its position_ids: pass both, or a (B, L) padding mask alone")
        left = padding is not None and not bool(padding[:, 0].all())
        patches = self.patches(pixel_values, grids_thw)
        layouts = self.layouts(input_ids, padding, patches)
        position_ids, columns = stack_rows([[tokens] for tokens in layouts], input_ids.shape[1], left)
        kept = kept_features(itertools.chain.from_iterable(patches))
        return position_ids.to(input_ids.device), columns.to(input_ids.device), kept

    def masks_for(self, columns: torch.Tensor) -> tuple[torch.Tensor | BlockMask | dict | None, dict]:
        """(B, 5, L) columns -> the attention mask of this backend, and further arguments for its kernel.

        Raises:
            UserError: the backend cannot do it, here or at all.
        """
        if self.attention == "flash_attention_2":
            return None, flash_segments(columns)
        carried = self.settings.carriers is not None
        if self.attention == "sdpa" and (apart := split_samples(columns, carried)) is not None:
            return self.mask_as_it_is(apart), {}
        if self.attention != "flex":
            return self.backend_mask(dense_mask(columns, carried)), {}
        if columns.device.type == "cpu" and torch.is_grad_enabled():
            raise UserError("FlexAttention has no backward pass on a CPU: train with sdpa there, or under no_grad")
        return block_mask(columns, carried), {}

    def backend_mask(self, mask: torch.Tensor | None) -> torch.Tensor | None:
        """A dense mask in the form that the attention backend executes."""
        backend = self.attention
        if isinstance(mask, BlockMask | dict):  # made by `masks_for`
            return mask
        if backend == "flex":
            raise UserError("flex makes its mask from columns and feeds whole sequences only: use sdpa or eager here")
        if mask is None or mask.ndim != 4:
            return mask
        if backend == "flash_attention_2":
            raise UserError("flash_attention_2 takes no 4-D mask: leave the mask out, or load with attention='sdpa'")
        if backend == "eager" and mask.dtype == torch.bool:  # eager would add True as 1
            return torch.zeros(mask.shape, dtype=self.dtype, device=mask.device).masked_fill(
                ~mask, torch.finfo(self.dtype).min
            )
        return mask

    def generate(self, *args, **kwargs):
        raise UserError("transformers' generate() misplaces video: use swwatch.engine or `swwatch stream`")


def annotate(config: PretrainedConfig, tokenizer, *, where: str = "the checkpoint", **overrides) -> PretrainedConfig:
    """Write the settled variant, policies, pixel budget and markup ids into a configuration."""
    settings = Settings.resolve(getattr(config, "swwatch", None), where=where, **overrides)
    settings.see.check_tower(FAMILIES[config.model_type].windows, where)
    markup = Markup.of(tokenizer, FAMILIES[config.model_type].stamps, settings.step_s)
    config.swwatch = settings.as_dict() | {"markup": asdict(markup)}
    if config.video_token_id != markup.video:
        raise UserError(f"{where}: config.json and tokenizer disagree about <|video_pad|>: is the folder mixed up?")
    return config
