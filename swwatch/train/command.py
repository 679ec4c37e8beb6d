"""Fine-tune Qwen2.5-VL in one of the variants, or to stream in turns (also: bash scripts/sft.sh).

Settings come from flags, then the environment, then --config, then the defaults above. A run that was interrupted
continues from its last complete checkpoint when it is started again with the same settings.
"""

import dataclasses
from pathlib import Path
from typing import Any

from swwatch.config import read_settings
from swwatch.data.annotations import no_file
from swwatch.data.tasks import TASKS
from swwatch.errors import UserError
from swwatch.launch.place import in_torchrun
from swwatch.model.checks import check_checkpoint, saved_settings
from swwatch.model.settings import Settings
from swwatch.paths import ROOT
from swwatch.policies.think import OFF
from swwatch.rules import variants
from swwatch.rules.systems import get
from swwatch.rules.variants import TURNS, VARIANTS
from swwatch.train.deepspeed_files import deepspeed_settings
from swwatch.train.settings import TrainSettings
from swwatch.train.trackers import choose_trackers

OF_TURNS = (
    "more_data",
    "positions",
    "context",
    "seconds_per_turn",
    "text_sink",
    "text_window",
)  # settings of chat systems alone


def main(argv: list[str]) -> int:
    if not in_torchrun():  # whose processes tell mistakes together
        read(argv)  # before torch is imported
    from swwatch.train.run import run

    return run(lambda: read(argv))


def several(argv: list[str]) -> bool:
    """For `launch.torchrun`: tell what is wrong with the flags; several processes are always of use."""
    read(argv)
    return True


def read(argv: list[str]) -> TrainSettings:
    """The settings of command line, environment and file, completed; all that can be told without torch is told.

    Raises:
        UserError: settings that cannot be, or a file that is not there.
    """
    settings = read_settings(TrainSettings, argv, program="swwatch train", about=__doc__)
    for path in (*settings.annotations, *(settings.eval_data or ())):
        if not path.is_file():
            raise no_file(path)
    deepspeed_settings(settings.parallel)
    choose_trackers(settings.log_to)
    return complete(settings)


def complete(settings: TrainSettings) -> TrainSettings:
    """Fill what the checkpoint knows, variant and output folder, and make paths absolute.

    Raises:
        UserError: there is no checkpoint, nobody names a variant, or it has no use for a setting.
    """
    model = Path(settings.model_path).expanduser()
    model_path = str(model.resolve()) if model.exists() else settings.model_path
    check_checkpoint(model_path)
    is_here = Path(model_path).is_dir()
    saved = saved_settings(model_path) if is_here or settings.variant is None else {}  # else loading will tell
    if not (settings.variant or saved):
        raise UserError(f"which variant? Set QWEN2_5_VL_VARIANT or --variant to one of {', '.join(VARIANTS | TURNS)}")
    known = Settings.resolve(saved, **settings.overrides(saved), where=model_path)
    variant = known.variant
    known.see.check_training()
    if known.carriers is not None and settings.attention != "auto":
        known.own_keep.attention(settings.attention)
    if variant not in TURNS:
        known.schedule.check(variants.get(variant))
        known.schedule.check_training()
        if known.schedule.has_head and settings.adapter == "none" and not settings.train_llm:
            raise UserError(f"schedule {known.schedule} has a head on the LLM, which is to learn: set train_llm")
    for name in ("schedule", "see") if variant in TURNS else OF_TURNS:
        if getattr(settings, name) != getattr(TrainSettings, name):
            others = ", ".join(VARIANTS if variant in TURNS else TURNS)
            raise UserError(f"{name} is for {others}; {variant} has no use for it: leave it out")
    thinks = variant in TURNS and get(variant).thinks
    weighs = settings.thought_weight != 1 and not thinks
    if known.think in (None, OFF) and (weighs or settings.thought_dropout):
        raise UserError(
            "thought_weight and thought_dropout are of thoughts, and there are none: set think, or leave out"
        )
    if variant not in TURNS and len(settings.eval_data or ()) > 1:
        raise UserError(f"eval_data: several files are for {', '.join(TURNS)}; of {variant} put the records into one")
    if variant in TURNS:
        get(variant).patches_of_turns(known.fps, known.seconds_per_turn)
    if (
        variant in TURNS
        and not get(variant).previous_text
        and (settings.text_sink, settings.text_window) != (None,) * 2
    ):
        raise UserError(f"text_sink and text_window are of previous text, and {variant} keeps none: leave them out")
    output = settings.output_dir or ROOT / "output" / f"qwen2_5vl-{TASKS[settings.task].label}-{variant}"
    paths = ("train_data", "more_data", "eval_data", "video_root", "frames_cache_dir")
    absolute = {name: _absolute(getattr(settings, name)) for name in paths}
    own = {"variant": variant, "model_path": model_path, "output_dir": output.resolve()}
    return dataclasses.replace(settings, **own, **absolute)


def _absolute(path: Any) -> Any:
    if isinstance(path, list):
        return [one.resolve() for one in path]
    return path and path.resolve()
