"""`swwatch train` (also: bash scripts/sft.sh)."""

from swwatch.launch.place import in_torchrun
from swwatch.train.settings import read


def main(argv: list[str]) -> int:
    if not in_torchrun():  # whose processes tell mistakes together
        read(argv)  # before torch is imported
    from swwatch.train.run import run

    return run(argv)


def several(argv: list[str]) -> bool:
    """For `launch.torchrun`: tell what is wrong with the flags; several processes are always of use."""
    read(argv)
    return True
