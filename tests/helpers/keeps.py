"""Every row of KEEP that forgets, in a form small enough that a short stream meets all of its limits."""

from itertools import cycle

from swwatch.policies.keep import KEEP
from swwatch.rules.variants import Speaks, speaking

SMALL = {
    "window": "window:3:text_sink=2:text_window=5",
    "sink_window": "sink_window:3:turns_s=3:text_sink=4:text_window=6",
    "flush": "flush:4",
    "restart": "restart:3",
    "recompute": "recompute:3:turns_s=3:text_sink=4:text_window=6",
    "recent": "recent:3",
    "key_norm": "key_norm:3:group_s=2",
    "rekv": "rekv:2:vision_s=2:host_mb=0.01:text_sink=4:text_window=8",
    "peak_end": "peak_end:2:group_s=2",
    "livevlm": "livevlm:20:vision_s=2:newest=3:text_sink=4:text_window=8",
    "carrier": "carrier:3:turns_s=3:text_sink=4:text_window=8",
    "vstream": "vstream:3:detail=2:turns_s=3:text_sink=4:text_window=8",
    "thoughts": "thoughts:2:first=1",
}
FORGETS = [name for name, kind in KEEP.items() if kind.forgets]


def kept(*ways: Speaks, bounded: bool = False) -> list[tuple[str, str]]:
    """(variant, policy) for every row that is for variants which speak so; the variants take turns."""
    names = {Speaks.PARALLEL: speaking(Speaks.PARALLEL), Speaks.TURNS: ["streamingvlm", "livecc"]}
    pairs = []
    for way in ways:
        turn = cycle(names[way])
        rows = (name for name in FORGETS if way in KEEP[name].for_whom and (KEEP[name].bounded or not bounded))
        pairs += [("vst" if KEEP[name].folds else next(turn), SMALL[name]) for name in rows]
    return pairs
