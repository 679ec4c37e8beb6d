"""The systems that stream in chat turns: ONE table (SYSTEMS, at the end) of what tells them apart.

Sources: StreamingVLM, arXiv 2510.09608; LiveCC, arXiv 2504.16030; Video Streaming Thinking (`vst`), arXiv 2603.12262;
Think-While-Watching (`tww`), arXiv 2603.11896; constants of their public releases.
"""

import math
from dataclasses import dataclass
from typing import Literal

from swwatch.config import look_up
from swwatch.errors import UserError
from swwatch.rules.schedule import seconds_of_step

ELLIPSIS = " ..."  # ends every answer: there is more to come
Context = Literal["none", "title", "previous", "previous_or_title", "both"]  # what else a training query may tell
TURN_S = 1.0  # seconds of a turn, where nothing else is said
TOLERANCE = 1e-6  # of a patch
LABEL = "Time={}-{}s"  # of a turn: the seconds of video that it is about


@dataclass(frozen=True)
class System:
    """A row of the table.

    Attributes:
        first_s: seconds of the first turn, at least.
        previous_text: older words are kept in a turn of the role "previous text" before all video.
        spaced: an answer's words begin with a space, as in the transcript they were learned from.
        keep: a policy of policies.keep; positions: a policy of rules.turn_positions.
        choose: how tokens are chosen in live streaming, a policy of policies.choose.
        query: what is asked where nothing else is.
        words_early: a training turn has the words that end by so many frames before its own end; LiveCC's are over
            when its last frame comes.
        clip_time: labels of a training clip count from its beginning, not from the video's.
        drop_silence: silent turns at the end of a training clip are left out.
        fractions: temporal positions may lie between whole ones; else they are rounded down.
        total_pixels: of a training clip, shared by its frames; None: each frame has its own. Live budgets are in
            data.budget.
        ends_with: text that ends every answer, and is all of a silent one; "": <|im_end|> alone.
        turn_s: seconds of a turn, where nothing else is said.
        thinks: what is said in a turn of video is a thought about it, for the model itself; a question, which ends the
            segment of video that has begun, is answered in a turn of its own. Texts: configs/thinking.yaml.
        aside: a question is answered as if the newest video had not been thought about yet, and is then forgotten with
            its answer. Else both stay, and later thoughts see them.
    """

    name: str
    first_s: float
    previous_text: bool
    spaced: bool
    keep: str
    positions: str
    choose: str
    query: str
    total_pixels: int | None = 19_267_584
    max_frames: int = 480
    words_early: int = 0
    clip_time: bool = False
    drop_silence: bool = False
    fractions: bool = False
    ends_with: str = ELLIPSIS
    turn_s: float = TURN_S
    thinks: bool = False
    aside: bool = False

    def patches_of_turns(self, fps: float, seconds_per_turn: float | None = None) -> tuple[int, int]:
        """Patches (two frames each) of the first turn and of every later one.

        Args:
            fps: frames a second.
            seconds_per_turn: None: `turn_s`, or as many as a patch lasts where that is more. The first turn has at
                least `first_s`, rounded up to whole patches.
        Raises:
            UserError: turns that are no whole number of patches.
        """
        step_s = seconds_of_step(fps)
        patches = max(self.turn_s, step_s) / step_s if seconds_per_turn is None else seconds_per_turn / step_s
        if patches < 1 - TOLERANCE or abs(patches - round(patches)) > TOLERANCE:
            seconds_per_turn = self.turn_s if seconds_per_turn is None else seconds_per_turn
            raise UserError(
                f"a turn of {seconds_per_turn:g} s is {patches:g} patches of two frames at {fps:g} frames a second: "
                f"give turns of {step_s:g} s, or a multiple of it (--seconds-per-turn of turns and train)"
            )
        return max(math.ceil(self.first_s / step_s - TOLERANCE), round(patches)), round(patches)


def get(name: str) -> System:
    """The table's row of this name.

    Raises:
        UserError: no such system.
    """
    return look_up(SYSTEMS, name, "system that streams in turns")


SYSTEMS = {
    system.name: system
    for system in (
        System(
            "streamingvlm",
            first_s=1.0,
            previous_text=True,
            spaced=True,
            keep="sink_window:16:turns_s=16:text_sink=512:text_window=512",
            positions="mrope_contiguous",
            choose="sampling:0.9:penalty=1.05:max_new_tokens=20",
            query="Commentate on this match",
            fractions=True,
        ),
        System(
            "livecc",
            first_s=3.0,
            previous_text=False,
            spaced=False,
            keep="flush:240",
            positions="mrope_full",
            choose="sampling:penalty=1.05:max_new_tokens=16",
            query="Please describe the video.",
            words_early=1,
            clip_time=True,
            drop_silence=True,
        ),
        System(
            "vst",
            first_s=0.0,
            previous_text=True,
            spaced=False,
            keep="thoughts",
            positions="mrope_full",
            choose="greedy:1.05:max_new_tokens=5000",
            query="",
            max_frames=384,
            ends_with="",
            turn_s=16.0,
            thinks=True,
            aside=True,
        ),
        System(
            "tww",
            first_s=0.0,
            previous_text=False,
            spaced=False,
            keep="all",
            positions="group",
            choose="greedy:1:max_new_tokens=512",
            query="",
            total_pixels=None,
            ends_with="",
            turn_s=30.0,
            thinks=True,
        ),
    )
}

COMMENTING = tuple(name for name, system in SYSTEMS.items() if not system.thinks)  # unasked, on what comes
