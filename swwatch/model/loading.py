"""The one function that loads a model, with its processor and settings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoProcessor, PretrainedConfig
from transformers.utils import is_flash_attn_2_available

from swwatch.data.dataset import ClipDataset
from swwatch.data.prompt import Markup, load_prompts
from swwatch.data.turns.prompt import Turns, texts_of
from swwatch.errors import UserError
from swwatch.model import packed
from swwatch.model.checks import ADAPTER, check_checkpoint, check_device, check_pack, saved_settings
from swwatch.model.dtype import dtype_of
from swwatch.model.families import model_class
from swwatch.model.protocols import StreamingModel
from swwatch.model.quantised import check_can_quantise, quantise
from swwatch.model.settings import Settings, base_of
from swwatch.rules import variants
from swwatch.rules.systems import System


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode, a torch module but on the fast path, and what belongs to it."""

    model: StreamingModel
    processor: object
    settings: Settings
    markup: Markup

    @property
    def tokenizer(self):
        return self.processor.tokenizer

    def turns(self, system: System) -> Turns:
        """What makes the spans of a chat system for this model."""
        return Turns(self.tokenizer, system, stamps=bool(self.markup.stamp))

    def clips(self, records: Sequence[dict], data: Path, **options) -> ClipDataset:
        """The samples of annotation records, laid out as this model is trained. Options as for ClipDataset."""
        form = {name: getattr(self.settings, name) for name in ("variant", "schedule", "see", "fps", "think")}
        form |= {"tokenizer": self.tokenizer, "markup": self.markup, "prompts": load_prompts()}
        form["carriers"] = self.settings.carriers
        form |= {"merge": self.model.config.vision_config.spatial_merge_size, "t_per_step": self.model.t_per_step}
        return ClipDataset(records, data, **form | options)


def load(
    path: str | Path,
    *,
    variant: str | None = None,
    schedule=None,
    pixel_budget: str | None = None,
    see=None,
    fps: float | None = None,
    other_fps: bool = False,
    seconds_per_turn: float | None = None,
    keep=None,
    choose=None,
    think=None,
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
    attention: str | None = None,
    base: str | Path | None = None,
    quantisation=None,
    quantize: str | None = None,
    pack: str = "off",
) -> Loaded:
    """Load a folder or hub id of one of the families, or an adapter's folder, which is merged into its base model.

    Args:
        variant, schedule, pixel_budget, see, fps: needed only where the checkpoint does not know them.
        other_fps: `fps` may be another than that which it was trained at.
        seconds_per_turn: of a chat system; by default the checkpoint's own.
        keep, choose, think: of every session that is not told otherwise, where the checkpoint names none.
        device: by default cuda where there is one, else cpu.
        dtype: by default bfloat16 on cuda, float32 on the CPU; "auto": see model.dtype.
        attention: by default flash_attention_2 on cuda where it is installed and all that is kept is seen, else sdpa.
        base: an adapter's base model, where it is not where the adapter says.
        quantisation: transformers' configuration of quantised weights, which go straight to the device; to train.
        quantize: a name of model.checks.QUANTISED: the LLM's weights are rounded once they are loaded; to stream.
        pack: "auto": see model.packed; to stream.
    Raises:
        UserError: not a checkpoint, no variant known, or a contradiction with what the checkpoint knows.
    """
    path = str(path)
    overrides = {"variant": variant, "schedule": schedule, "pixel_budget": pixel_budget, "see": see}
    overrides |= {"fps": fps, "other_fps": other_fps, "seconds_per_turn": seconds_per_turn}
    overrides |= {"keep": keep, "choose": choose, "think": think}
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device {device!r} was asked for, but this machine has no CUDA device: use --device cpu")
    check_pack(pack, device, quantize)
    if quantize is not None:
        check_can_quantise(quantize, device)
    if (Path(path) / ADAPTER).exists():
        how = {"device": device, "dtype": dtype, "attention": attention}
        loaded = _load_adapter(path, base, overrides, how)
    else:
        check_checkpoint(path, base)
        if quantize is not None and "quantization_config" in PretrainedConfig.get_config_dict(path)[0]:
            raise UserError(f"{path} was saved with quantised weights: leave --quantize out")
        loaded = _load_whole(path, overrides, device, dtype, attention, quantisation)
    if quantize is not None:
        quantise(loaded.model, quantize)
    if pack == "auto":
        packed.pack(loaded.model)
    return loaded


def _load_whole(path: str, overrides: dict, device: str, dtype, attention: str | None, quantisation) -> Loaded:
    """A checkpoint that is no adapter. Args: as of `load`."""
    dtype = dtype_of(dtype, device)
    place = {"quantization_config": quantisation, "device_map": {"": device}} if quantisation else {"device_map": None}
    try:
        family = model_class(PretrainedConfig.get_config_dict(path)[0].get("model_type"), path)
        processor = AutoProcessor.from_pretrained(path)
        how = {"dtype": dtype, "attn_implementation": attention or "sdpa", "tokenizer": processor.tokenizer}
        model = family.from_pretrained(path, **overrides, **how, **place)
        add_ends(model, processor.tokenizer)
    except ImportError as error:  # transformers' answer to a backend that is not installed
        raise UserError(f"{str(error).rstrip('. ')}. Install it, or leave attention to the default (sdpa)") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load {path}: {error}") from error
    if attention is None and _flash_attention_fits(model.settings, device, dtype):
        model.set_attn_implementation("flash_attention_2")
    elif model.attention != (attention or "sdpa"):  # transformers took another one
        raise UserError(f"attention {attention!r} is not to be had here: it became {model.attention}")
    if quantisation is None:
        model = model.to(device)
    return Loaded(model.eval(), processor, model.settings, model.markup)


def add_ends(model, tokenizer) -> None:
    """Give a base model the tokens that end answers in its system, where it lacks them: the next free ids, as in the
    system's release. Where there are no rows for them they are made, random but the same every time, to be trained."""
    ends = texts_of(model.settings.variant).ends
    tokenizer.add_tokens([end for end in ends if end not in tokenizer.get_added_vocab()], special_tokens=True)
    if ends and len(tokenizer) > model.get_input_embeddings().num_embeddings:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)


def _load_adapter(path: str, base: str | Path | None, overrides: dict, how: dict) -> Loaded:
    """The base model with the adapter added to its weights; what training settled is in the adapter's folder."""
    from swwatch.model import adapters  # peft takes seconds to import

    if not (Path(path) / "config.json").exists():
        raise UserError(
            f"{path} holds an adapter but no config.json, so its variant is unknown: was it made by swwatch?"
        )
    settings = Settings.resolve(saved_settings(path), where=path, **overrides)
    base = str(base or base_of(path))
    try:
        check_checkpoint(base)
    except UserError as error:
        raise UserError(f"{path} is an adapter of the model {base}, which is not there: --base says where") from error
    try:
        if (Path(base) / ADAPTER).exists():
            raise UserError("that is an adapter too: merge it with `swwatch merge` first")
        loaded = load(base, **settings.as_dict(), other_fps=overrides["other_fps"], **how)
    except UserError as error:
        raise UserError(f"{path} is an adapter of the model {base}: {error}") from error
    return replace(loaded, model=adapters.merge(loaded.model, path).eval())


def _flash_attention_fits(settings: Settings, device: str, dtype: torch.dtype) -> bool:
    half = dtype in (torch.bfloat16, torch.float16)  # it computes in no other
    causal = variants.get(settings.variant).streams == 1 and settings.own_keep.attention(None) is None
    return device.startswith("cuda") and half and causal and is_flash_attn_2_available()
