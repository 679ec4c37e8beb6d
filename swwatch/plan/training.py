"""Memory that a training run takes on each GPU, part by part, from the model's shapes alone.

Weights, gradients and AdamW's state are counted; a layer, the loss and a block of the vision tower are run on tensors
without values (plan.traced). The peak is the larger of two moments: the LLM's backward pass (all that is kept for it,
and one layer or the loss) and the vision tower's. ESTIMATED, not measured on a GPU: what allocators lose between
pieces, and workspaces of kernels, come on top; `CUDA` stands for the context and libraries of a process.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from swwatch.bench.gpus import GPUS
from swwatch.config import look_up, setting
from swwatch.data.budget import BUDGETS
from swwatch.errors import UserError
from swwatch.plan.models import check_named, config_of
from swwatch.rules.variants import TURNS
from swwatch.train.deepspeed_files import NAMES
from swwatch.train.settings import TrainSettings

if TYPE_CHECKING:
    from torch import nn

GB = 1e9
CONTEXT = 1e9  # of CUDA, cuBLAS and NCCL in a process
GATHERED = 1_000_000_000  # weights that ZeRO-3 holds whole at once: DeepSpeed's default of stage3_max_live_parameters
LOSS_CHUNK = 1024  # labelled tokens whose logits exist at once, as in model.loss
SPARE = 0.95  # of a GPU's memory: the rest for what allocators lose
NF4 = 0.516  # bytes of a weight in 4 bits, its scale in 8 bits for 64 weights, theirs in 32 for 256 of them


@dataclass(frozen=True)
class TrainPlanSettings(TrainSettings):
    """Does this training run fit, and what takes the memory?

    All settings of `swwatch train`, so that --config takes a recipe; nothing is downloaded or trained. The precision
    auto is bfloat16 here, and attention never a dense mask.
    --model-path may be a name: qwen2.5-vl-3b, qwen2.5-vl-7b, qwen2-vl-7b, qwen3-vl-2b, qwen3-vl-4b, qwen3-vl-8b.
    """

    gpus: int = setting(1, "processes, which share what the engine shares", least=1)
    label_tokens: int = setting(1024, "labelled tokens of the longest row", least=1)

    def __post_init__(self):
        super().__post_init__()
        check_named(self.model_path)
        if self.parallel not in NAMES:
            raise UserError(f"plan knows parallel {', '.join(NAMES)}, not {self.parallel!r}")
        if self.pixel_budget is not None:
            look_up(BUDGETS, self.pixel_budget, "pixel budget")
        if self.adapter != "none" and self.parallel != "ddp":
            raise UserError(f"plan counts adapters under parallel ddp, not {self.parallel}: leave --parallel out")


@dataclass(frozen=True)
class TrainPlan:
    """What was found.

    Attributes:
        settings: it was asked for.
        counts: part of the model -> (weights that learn, all).
        held: bytes that stay on a GPU, by name; passing: bytes of the backward pass at its peak, by name.
        vision: bytes of the vision tower's part of a step, instead of the passing ones.
        host: bytes of the machine's memory, for each of the processes.
    """

    settings: TrainPlanSettings
    counts: dict[str, tuple[int, int]]
    held: dict[str, float]
    passing: dict[str, float]
    vision: float
    host: float = 0.0

    @property
    def peak(self) -> float:
        """Bytes of a GPU."""
        return sum(self.held.values()) + max(sum(self.passing.values()), self.vision)

    def summary(self) -> str:
        """One line, as the recipes have it."""
        passing = self.passing if sum(self.passing.values()) >= self.vision else {"vision tower": self.vision}
        parts = self.held | passing
        named = ", ".join(f"{name} {size / GB:.1f}" for name, size in parts.items() if size >= 0.05 * GB)
        host = f"; {self.host / GB:.0f} GB of host memory for each" if self.host else ""
        return f"{self.peak / GB:.1f} GB a GPU: {named}{host}"


def plan_training(settings: TrainPlanSettings) -> TrainPlan:
    """Count and trace.

    Raises:
        UserError: the model's configuration cannot be read, or its parts cannot be trained so.
    """
    import torch

    from swwatch.model.families import model_class
    from swwatch.model.upstream import from_config
    from swwatch.plan.traced import without_memory
    from swwatch.train.adapters import adapt
    from swwatch.train.parts import count, set_trainable

    config = config_of(settings.model_path, settings.variant or "group")
    half = settings.precision != "float32"
    autocast = half and settings.parallel == "ddp"
    weights = torch.bfloat16 if half and (settings.parallel != "ddp" or settings.adapter != "none") else torch.float32
    with torch.device("meta"):
        model = from_config(model_class(config.model_type), config, dtype=weights)
        learn = {"vision": settings.train_vision, "merger": settings.train_merger, "llm": settings.train_llm}
        counts = set_trainable(model, **learn)
        held, host = _held(model, settings, counts, weights.itemsize)
        if settings.adapter != "none":
            adapted = adapt(model, settings, None)
            counts = {name: (learn, counts[name][1]) for name, (learn, _) in count(adapted).items()}
            held = _held_with_adapter(model, settings, counts, weights.itemsize)
    with without_memory():
        passing, vision = _passing(model, settings, weights, autocast)
    return TrainPlan(settings, counts, held, passing, vision, host)


def _held(model: "nn.Module", settings: TrainPlanSettings, counts: dict, size: int) -> tuple[dict[str, float], float]:
    """What stays on a GPU between steps, and bytes of host memory; `size` bytes of a loaded weight."""
    learn, everything = (sum(pair[i] for pair in counts.values()) for i in (0, 1))
    gpus, layers = settings.gpus, model.model.language_model.layers
    # of float32 weights the optimizer needs no copies
    whole = {"weights": size * everything, "gradients": size * learn, "optimizer": (8 if size == 4 else 12) * learn}
    context = {"CUDA": CONTEXT}
    if settings.parallel == "ddp":
        copies = {"bfloat16 copies": 2 * learn} if settings.precision != "float32" else {}
        return whole | copies | context, 0.0
    if settings.parallel == "zero2":
        return {name: bytes / (1 if name == "weights" else gpus) for name, bytes in whole.items()} | context, 0.0
    if settings.parallel == "fsdp2":
        shards = {"weights": 4 * everything / gpus, "gradients": 4 * learn / gpus, "optimizer": 8 * learn / gpus}
        outside = everything - sum(p.numel() for p in layers.parameters())
        layer = sum(p.numel() for p in layers[0].parameters())
        return shards | {"gathered": size * (outside + 2 * layer)} | context, 0.0
    shards = {name: bytes / gpus for name, bytes in whole.items()}
    gathered = {"gathered": size * min(GATHERED, everything)}
    if settings.parallel == "zero3_offload":
        return gathered | context, sum(shards.values())
    return shards | gathered | context, 0.0


def _held_with_adapter(model: "nn.Module", settings: TrainPlanSettings, counts: dict, size: int) -> dict[str, float]:
    """The same where the base model is frozen and what learns is float32 beside it."""
    learn, everything = (sum(pair[i] for pair in counts.values()) for i in (0, 1))
    weights = size * everything
    if settings.adapter == "qlora":  # the matrices of the LLM's layers
        layers = model.model.language_model.layers.named_parameters()
        weights += (NF4 - size) * sum(p.numel() for name, p in layers if p.ndim == 2 and "lora_" not in name)
    return {"weights": weights, "adapters": 4 * learn, "gradients": 4 * learn, "optimizer": 8 * learn, "CUDA": CONTEXT}


def _passing(model: "nn.Module", settings: TrainPlanSettings, weights, autocast: bool) -> tuple[dict, float]:
    """Bytes of the backward pass by name, and of the vision tower's part of a step."""
    from swwatch.plan.traced import Pieces, kept_of, peak_of

    pieces = Pieces(model, weights, autocast)
    config, row = model.config, settings.pack_tokens or settings.max_length * settings.batch_size
    text, vision = config.text_config, config.vision_config
    single = settings.parallel in ("zero3", "zero3_offload", "fsdp2")
    labels = min(settings.label_tokens, row if single else min(row, LOSS_CHUNK))
    layer, loss = peak_of(pieces.layer(row)), peak_of(pieces.loss(labels))
    if settings.gradient_checkpointing:
        activations = weights.itemsize * row * text.hidden_size * text.num_hidden_layers
    else:
        activations = kept_of(pieces.layer(row)) * text.num_hidden_layers
    patches = _video_tokens(settings, row) * vision.spatial_merge_size**2
    pixels = 4 * patches * 3 * vision.temporal_patch_size * vision.patch_size**2  # float32, as they come
    passing = {"pixels": pixels, "kept": activations}
    passing |= {"a layer": layer} if layer >= loss else {"the loss": loss}
    block = pieces.block(patches, patches // max(1, settings.batch_size), settings.train_vision)
    width = model.model.visual.blocks[0].norm1.weight.shape[0]
    tower = pixels + peak_of(block) + weights.itemsize * patches * width
    if settings.train_vision:
        tower += weights.itemsize * patches * width * vision.depth if settings.gradient_checkpointing else 0
        tower += 0 if settings.gradient_checkpointing else kept_of(block) * vision.depth
    return passing, tower


def _video_tokens(settings: TrainPlanSettings, row: int) -> int:
    """Of a row, at most."""
    if settings.pack_tokens or settings.variant in TURNS:
        return row
    budget = BUDGETS[settings.pixel_budget or "declared"]
    side = 32 if budget.name == "qwen3_vl" else 28
    clip = (budget.max_pixels or budget.total_pixels) // side**2 * settings.max_frames // 2
    return min(row, clip * settings.batch_size)


def report(settings: TrainPlanSettings) -> str:
    """The plan as text: by part, then on which GPUs it fits, then what other engines would take."""
    plan = plan_training(settings)
    lines = [
        f"{name:16} {learn / GB:.2f} of {of / GB:.2f} G weights learn" for name, (learn, of) in plan.counts.items()
    ]
    lines += ["", plan.summary(), ""]
    lines += [f"{name:16} {size / GB:6.1f} GB" for name, size in {**plan.held, **plan.passing}.items()]
    lines.append(f"{'vision tower':16} {plan.vision / GB:6.1f} GB, at another moment than what is kept and a layer")
    fitting = [name for name, gpu in GPUS.items() if plan.peak <= SPARE * gpu.memory]
    none = "none that is known: shorten rows, take more GPUs, zero3_offload or an adapter"
    lines += ["", f"{'fits on':16} {', '.join(fitting) or none}"]
    if settings.adapter == "none":
        lines += ["", "with --parallel:"]
        for name in NAMES:
            other = plan if name == settings.parallel else plan_training(replace(settings, parallel=name))
            lines.append(f"  {name:14} {other.peak / GB:6.1f} GB a GPU of {settings.gpus}")
    return "\n".join(lines)
