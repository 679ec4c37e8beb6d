"""The systems that stream in chat turns: ONE table (SYSTEMS, at the end) of what tells them apart.

Sources: StreamingVLM, arXiv 2510.09608; LiveCC, arXiv 2504.16030; constants of their public releases.
"""

from dataclasses import dataclass
from typing import Literal

from swwatch.errors import UserError

ELLIPSIS = " ..."  # ends every answer: there is more to come
Context = Literal["none", "title", "previous", "previous_or_title", "both"]  # what else a training query may tell
LABEL = "Time={:.1f}-{:.1f}s"  # of a turn: the seconds of video that it is about


@dataclass(frozen=True)
class System:
    """A row of the table.

    Attributes:
        first_frames: frames of the first turn at 2 frames a second; every later turn has 2.
        previous_text: older words are kept in a turn of the role "previous text" before all video.
        spaced: an answer's words begin with a space, as in the transcript they were learned from.
        keep: a policy of policies.keep; positions: a policy of rules.turn_positions.
        choose: how tokens are chosen in live streaming, a policy of policies.choose.
        query: what is asked where nothing else is.
        words_early_s: a training turn has the words that end by so many seconds before its own end; LiveCC's are over
            when its last frame comes.
        clip_time: labels of a training clip count from its beginning, not from the video's.
        drop_silence: silent turns at the end of a training clip are left out.
        total_pixels: of a training clip, shared by its frames; live budgets are in data.budget.
    """

    name: str
    first_frames: int
    previous_text: bool
    spaced: bool
    keep: str
    positions: str
    choose: str
    query: str
    total_pixels: int = 19_267_584
    max_frames: int = 480
    words_early_s: float = 0.0
    clip_time: bool = False
    drop_silence: bool = False


def get(name: str) -> System:
    """The table's row of this name.

    Raises:
        UserError: no such system.
    """
    if name not in SYSTEMS:
        raise UserError(f"no system {name!r} that streams in turns: choose one of {', '.join(SYSTEMS)}")
    return SYSTEMS[name]


SYSTEMS = {
    system.name: system
    for system in (
        System(
            "streamingvlm",
            first_frames=2,
            previous_text=True,
            spaced=True,
            keep="sink_window:16:turns_s=16:text_sink=512:text_window=512",
            positions="mrope_contiguous",
            choose="sampling:0.9:penalty=1.05:max_new_tokens=20",
            query="Commentate on this match",
        ),
        System(
            "livecc",
            first_frames=6,
            previous_text=False,
            spaced=False,
            keep="flush:240",
            positions="mrope_full",
            choose="sampling:penalty=1.05:max_new_tokens=16",
            query="Please describe the video.",
            words_early_s=0.5,
            clip_time=True,
            drop_silence=True,
        ),
    )
}
