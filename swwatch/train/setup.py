"""What a run is made of: the model as it will be trained, its loss, and the clips."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from swwatch.data.budget import BUDGETS
from swwatch.data.collator import Collator
from swwatch.data.frame_cache import FrameCache, how_made
from swwatch.data.pixels import FrameEncoder
from swwatch.data.records import Records
from swwatch.data.samples import Samples
from swwatch.data.seek_jsonl import Conversations
from swwatch.data.turns.dataset import TurnDataset, training_budget
from swwatch.data.turns.samples import SampleFormat
from swwatch.errors import UserError
from swwatch.model.attention import BLOCK
from swwatch.model.checks import ADAPTER, saved_settings
from swwatch.model.loading import Loaded, load
from swwatch.model.loss import choose_loss
from swwatch.rules import systems
from swwatch.rules import turn_positions as positions
from swwatch.rules.variants import TURNS
from swwatch.train.adapters import adapt, quantisation
from swwatch.train.machine import base_dtype
from swwatch.train.parallelism import Parallelism
from swwatch.train.parts import count, set_trainable
from swwatch.train.settings import TrainSettings

Data = Records | Conversations


@dataclass(frozen=True)
class Setup:
    """What a run works with, before its samples are put in order.

    Attributes:
        parallelism: which shards the model.
        loaded: the model to start or continue from; with adapters their base.
        clips: the samples.
        collator: makes batches of them.
        model: what is trained: loaded.model, or the same under adapters.
        counts: part of the model -> (trainable parameters, all).
        why_loss: why the loss is computed the way it is, which the model knows.
    """

    parallelism: Parallelism
    loaded: Loaded
    clips: Samples
    collator: Collator
    model: nn.Module
    counts: dict[str, tuple[int, int]]
    why_loss: str


def set_up(settings: TrainSettings, records: Data, begin: Path | None, cache_gb: float) -> Setup:
    """Load what a run needs.

    Args:
        settings: from `machine.settle`.
        begin: the checkpoint to continue from.
        cache_gb: of encoded clips that are kept in memory.
    Raises:
        UserError: the model cannot be loaded or trained as asked for, or the frame cache cannot be used.
    """
    parallelism = Parallelism.of(settings.parallel)
    loaded = load_model(settings, begin, parallelism)
    clips = clips_of(settings, records, settings.train_data, loaded, cache_gb)
    if settings.adapter == "none":
        flags = {"vision": settings.train_vision, "merger": settings.train_merger, "llm": settings.train_llm}
        model, counts = loaded.model, set_trainable(loaded.model, **flags)
    else:
        before = count(loaded.model)
        model = adapt(loaded.model, settings, begin)
        counts = {name: (learn, before[name][1]) for name, (learn, _) in count(model).items()}
    sharded, plain = parallelism.stage == 3 or parallelism.name == "fsdp2", type(loaded.model.lm_head) is nn.Linear
    cuda = torch.cuda.is_available()
    if loaded.settings.variant not in TURNS:  # whose samples say what weighs how much
        loaded.model.thought_weight = settings.thought_weight
    loaded.model.loss_way, why = choose_loss(settings.fused_loss, cuda=cuda, sharded=sharded, plain_head=plain)
    collator = Collator(loaded.tokenizer.pad_token_id, multiple=BLOCK if settings.attention == "flex" else 1)
    return Setup(parallelism, loaded, clips, collator, model, counts, why)


def load_model(settings: TrainSettings, begin: Path | None, parallelism: Parallelism) -> Loaded:
    """The model to start or continue from; with adapters, the base that they will be put on.

    Raises:
        UserError: it cannot be loaded, or not in the way an adapter needs.
    """
    path = begin or settings.model_path
    overrides = settings.overrides(saved_settings(path))
    how = {"dtype": base_dtype(settings, parallelism), "attention": settings.attention, "device": parallelism.device()}
    if settings.adapter == "none":
        return load(path, **overrides, **how)
    if (Path(settings.model_path) / ADAPTER).exists():
        raise UserError(f"{settings.model_path} is an adapter itself: merge it first (swwatch merge)")
    return load(settings.model_path, **overrides, **how, quantisation=quantisation(settings))


def records_of(settings: TrainSettings, data: Sequence[Path]) -> Data:
    """The records of an annotation file, or of files of conversations where the variant streams in turns.

    Raises:
        UserError: one of them cannot be read.
    """
    return Conversations(data) if settings.variant in TURNS else Records(data[0])


def clips_of(settings: TrainSettings, records: Data, data: Path, loaded: Loaded, cache_gb: float) -> Samples:
    """The samples of records, laid out as the model was settled to be trained.

    Args:
        data: the annotation file of the records; those of conversations name their own.
    Raises:
        UserError: frames_cache_dir cannot be used, or has no room for frames_cache_gb.
    """
    in_turns, name = loaded.settings.variant in TURNS, loaded.settings.pixel_budget
    budget = training_budget(name) if in_turns else BUDGETS[name]
    encoder = FrameEncoder(loaded.processor.video_processor, budget)
    frames = None
    if settings.frames_cache_dir is not None:
        frames = FrameCache(
            settings.frames_cache_dir, settings.frames_cache_gb, frames_made(settings, encoder, loaded)
        )
        frames.check_room()
    common = {
        "encoder": encoder,
        "merge": loaded.model.config.vision_config.spatial_merge_size,
        "max_frames": settings.max_frames,
        "reader": settings.reader,
        "seed": settings.seed,
        "cache_gb": cache_gb,
        "frame_cache": frames,
        "video_root": settings.video_root,
    }
    if in_turns:
        turns = loaded.turns(systems.get(loaded.settings.variant))
        keep = loaded.settings.own_keep
        times = {"fps": loaded.settings.fps, "seconds_per_turn": loaded.settings.seconds_per_turn}
        form = SampleFormat(turns, settings.context, settings.max_length, settings.truncate, keep, **times)
        own = positions.of(turns.system)
        policy = own if own.apart else positions.of(turns.system, settings.positions)
        more = {"t_step": loaded.model.t_per_step, "thought_weight": settings.thought_weight}
        more |= {"carriers": loaded.settings.carriers}
        return TurnDataset(records, form=form, policy=policy, **more, **common)
    limits = {"max_length": settings.max_length, "truncate": settings.truncate}
    dropout = settings.thought_dropout if data == settings.train_data else 0.0
    return loaded.clips(records, data, thought_dropout=dropout, **limits, **common)


def frames_made(settings: TrainSettings, encoder: FrameEncoder, loaded: Loaded) -> dict:
    """What the frames of a run's clips depend on, for a FrameCache."""
    how = how_made(encoder, settings.max_frames, settings.reader, loaded.settings.fps)
    return how | {"fill_up": loaded.settings.variant in TURNS}
