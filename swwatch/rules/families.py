"""The families of models: ONE list (FAMILIES, at the end) of what must be known of each before there is a model.

What runs is in swwatch/model/families, one file for each family, under the contract that is written there.
"""

from collections.abc import Callable
from dataclasses import dataclass

from swwatch.rules.schedule import seconds_of_step


@dataclass(frozen=True)
class Family:
    """A row of the list.

    Attributes:
        name: "model_type" in config.json, and the name of the family's file.
        prefix: what the names of its classes in transformers begin with.
        counts_seconds: temporal positions go by `tokens_per_second` of its configuration; else by patches.
        windows: most blocks of its vision tower attend within windows of a picture.
        vision: configuration of its vision tower, from depth, width, width inside the feed-forward layers, and the
            LLM's width.
        patch_size: pixels of a patch's side.
        stamps: every patch of a video is announced by a time stamp and <|vision_start|>, and closed by <|vision_end|>:
            text that belongs to its step (data.prompt.Markup says which). Else these two are around the whole video.
        resampled: its vision tower has learned positions, resampled to the grid of a picture.
        interleaved: time, height and width take turns at the rotary frequencies; else each has a section of them.
    """

    name: str
    prefix: str
    counts_seconds: bool
    windows: bool
    vision: Callable[[int, int, int, int], dict]
    patch_size: int = 14
    stamps: bool = False
    resampled: bool = False
    interleaved: bool = False

    @property
    def upstream(self) -> str:
        """The class that config.json names, so that other tools load our checkpoints."""
        return f"{self.prefix}ForConditionalGeneration"

    @property
    def processor(self) -> str:
        return f"{self.prefix}Processor"


def t_step(config, seconds_per_patch: float = seconds_of_step()) -> float:
    """Temporal positions from one patch to the next.

    Args:
        config: of a model of any family.
        seconds_per_patch: from one patch to the next, such as schedule.seconds_of_step; more where frames were left
            out. The result need not be whole.
    """
    if not FAMILIES[config.model_type].counts_seconds:
        return 1
    step = config.vision_config.tokens_per_second * seconds_per_patch
    return int(step) if step == int(step) else step


def head_size(text_config) -> int:
    """Width of a head of the LLM, which some families' configurations name and others' do not."""
    return vars(text_config).get("head_dim") or text_config.hidden_size // text_config.num_attention_heads


def _windowed_vision(depth: int, width: int, inner: int, llm_width: int) -> dict:
    full = list(range(depth - 1, -1, -4))[::-1]  # blocks without windows: every fourth, and the last
    sizes = {"hidden_size": width, "intermediate_size": inner, "out_hidden_size": llm_width}
    return sizes | {"tokens_per_second": 2, "window_size": 112, "fullatt_block_indexes": full}


def _plain_vision(depth: int, width: int, inner: int, llm_width: int) -> dict:
    return {"embed_dim": width, "mlp_ratio": inner // width, "hidden_size": llm_width}


def _deep_vision(depth: int, width: int, inner: int, llm_width: int) -> dict:
    taps = sorted({max(0, depth * quarter // 4 - 1) for quarter in (1, 2, 3)})  # blocks that feed the LLM's layers
    sizes = {"hidden_size": width, "intermediate_size": inner, "out_hidden_size": llm_width}
    return sizes | {"num_position_embeddings": 256, "deepstack_visual_indexes": taps}


FAMILIES = {
    family.name: family
    for family in (
        Family("qwen2_5_vl", "Qwen2_5_VL", counts_seconds=True, windows=True, vision=_windowed_vision),
        Family("qwen2_vl", "Qwen2VL", counts_seconds=False, windows=False, vision=_plain_vision),
        Family(
            "qwen3_vl",
            "Qwen3VL",
            counts_seconds=False,
            windows=False,
            vision=_deep_vision,
            patch_size=16,
            stamps=True,
            resampled=True,
            interleaved=True,
        ),
    )
}
