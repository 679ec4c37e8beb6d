"""The modes of the endless benchmark: ways to go on without end, or not to."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mode:
    """A row of the table.

    Attributes:
        engine: of a parallel variant with a window; else `system`, `eviction` and `positions` of chat turns.
        constant: once its windows are full, every step costs the same.
    """

    name: str
    what: str
    engine: str = ""
    system: str = ""
    eviction: str = ""
    positions: str = ""
    constant: bool = False


MODES = {  # what is bounded comes first, so that the memory of what is not does not count for it
    mode.name: mode
    for mode in (
        Mode("serial", "a parallel variant with a window: watches, then speaks", engine="serial", constant=True),
        Mode("fused", "the same, watching while speaking", engine="fused", constant=True),
        Mode(
            "sink_window",
            "StreamingVLM: sinks and windows, positions closed up",
            system="streamingvlm",
            eviction="sink_window",
            positions="mrope_contiguous",
            constant=True,
        ),
        Mode(
            "recompute",
            "the same window, read anew every second",
            system="streamingvlm",
            eviction="recompute",
            positions="mrope_contiguous",
            constant=True,
        ),
        Mode(
            "restart",
            "a window without overlap: everything begins anew",
            system="streamingvlm",
            eviction="restart",
            positions="mrope_append",
        ),
        Mode(
            "flush",
            "LiveCC's paper: all video goes at once, all text stays",
            system="livecc",
            eviction="flush",
            positions="mrope_full",
        ),
        Mode(
            "full",
            "full attention: nothing is forgotten",
            system="streamingvlm",
            eviction="append",
            positions="mrope_append",
        ),
    )
}
