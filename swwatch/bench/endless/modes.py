"""The modes of the endless benchmark: ways to go on without end, or not to."""

from collections.abc import Sequence
from dataclasses import dataclass

from swwatch.bench.settings import check_known
from swwatch.errors import UserError
from swwatch.policies.keep import parse_keep
from swwatch.rules import variants
from swwatch.rules.systems import COMMENTING
from swwatch.rules.variants import Speaks, speaking

PARALLEL = speaking(Speaks.PARALLEL)


@dataclass(frozen=True)
class Mode:
    """A row of the table.

    Attributes:
        system, eviction, positions: of chat turns; engine: instead, of a parallel variant with a window.
        constant: once its windows are full, every step costs the same.
        variant, keep: of a parallel variant and of KEEP, where the mode names them.
    """

    what: str
    system: str = ""
    eviction: str = ""
    positions: str = ""
    engine: str = ""
    constant: bool = False
    variant: str = ""
    keep: str = ""


MODES = {  # what is bounded comes first, so that the memory of what is not does not count for it
    "serial": Mode("a parallel variant with a window: watches, then speaks", engine="serial", constant=True),
    "fused": Mode("the same, watching while speaking", engine="fused", constant=True),
    "sink_window": Mode(
        "StreamingVLM: sinks and windows, positions closed up",
        "streamingvlm",
        "sink_window",
        "mrope_contiguous",
        constant=True,
    ),
    "recompute": Mode(
        "the same window, read anew every second", "streamingvlm", "recompute", "mrope_contiguous", constant=True
    ),
    "restart": Mode("a window without overlap: everything begins anew", "streamingvlm", "restart", "mrope_append"),
    "flush": Mode("LiveCC's paper: all video goes at once, all text stays", "livecc", "flush", "mrope_full"),
    "full": Mode("full attention: nothing is forgotten", "streamingvlm", "append", "mrope_append"),
}


def mode_of(name: str) -> Mode:
    """A row of the table; or, of a text VARIANT:KEEP such as `group:rekv:8`, that variant with what it keeps so.

    Raises:
        UserError: it is neither, or the variant cannot be kept so.
    """
    variant, named, text = name.partition(":")
    if not named:
        check_known("mode", name, MODES)
        return MODES[name]
    check_endless(variant, (*PARALLEL, *COMMENTING))
    keep = parse_keep(text)
    keep.check(variants.get(variant))
    form = {"variant": variant, "engine": "serial"} if variant in PARALLEL else {"system": variant}
    return Mode(f"{variant} that keeps {keep}", keep=str(keep), **form)


def check_endless(variant: str, choices: Sequence[str]) -> None:
    """Raises UserError: a variant is none of these, whose streams have no end."""
    row = variants.get(variant)
    if row.name not in choices:
        how = f"the variant {row.name!r} has no endless form, for it speaks {row.speaks.value}"
        raise UserError(f"{how}: choose {', '.join(choices)}")
