"""The checkpoint that programs take when they are given none: what the quick start has trained, or a made one."""

from pathlib import Path

from swwatch.paths import ROOT
from swwatch.rules.variants import VARIANTS

QUICKSTART = ROOT / "output/quickstart"
TRAIN_IT = "bash scripts/quickstart.sh trains one in about six minutes"


def toy_checkpoint(folder: Path = QUICKSTART) -> tuple[list[str], str | None, list[str]]:
    """What the quick start has trained, else an untrained model such as it begins with.

    Returns:
        Checkpoint folders, the variant to load them as (None: they know), and notes for the user.
    """
    trained = [folder / name for name in ("group", *VARIANTS) if (folder / name / "model.safetensors").is_file()]
    trained = [path for path in dict.fromkeys(trained) if (path / "config.json").is_file()]
    toy = "it is a toy that knows moving coloured shapes only; give --model for another"
    if trained:
        return [str(path) for path in trained], None, [f"no --model given: {folder} has the quick start's, and {toy}"]
    from swwatch.toy.checkpoint import make_checkpoint

    model = make_checkpoint(folder / "model", seed=0)
    return [str(model)], "group", [f"the toy model in {model} has RANDOM weights and says nonsense: {TRAIN_IT}"]
