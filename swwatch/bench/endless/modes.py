"""The modes of the endless benchmark: ways to go on without end, or not to."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mode:
    """A row of the table.

    Attributes:
        system, eviction, positions: of chat turns; engine: instead, of a parallel variant with a window.
        constant: once its windows are full, every step costs the same.
    """

    what: str
    system: str = ""
    eviction: str = ""
    positions: str = ""
    engine: str = ""
    constant: bool = False


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
