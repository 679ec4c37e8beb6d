"""Whether a reply is right: pure functions of the reply, the right answer and the choices.

The benchmarks' own scorers are generous: "A" is in "A person", "no" in "cannot know". The strict one stands beside.
"""

import re
from collections.abc import Callable, Sequence


def strict(reply: str, answer: str, choices: Sequence[str] = ()) -> bool:
    """The reply is the answer and nothing else, but for case, white space, brackets and a mark at its end."""
    return reply.strip().strip("()").rstrip(".:)").strip().casefold() == answer.casefold()


def ovobench(reply: str, answer: str, choices: Sequence[str] = ()) -> bool:
    """OVO-Bench: all digits of the reply joined are the count; else the answer is in the reply, or Y or N is all.

    Source: utils/OVOBenchScore.py of github.com/JoeLeelyf/OVO-Bench.
    """
    if answer.isdigit():
        return "".join(re.findall(r"\d+", reply)) == answer
    return answer in reply or (answer in ("Yes", "No") and reply == answer[0])


def first_letter(reply: str, answer: str, choices: Sequence[str] = ()) -> bool:
    """StreamingBench: the reply begins with the answer's letter. Source: src/count.py of its repository."""
    return reply[:1] == answer


SCORERS: dict[str, Callable[[str, str, Sequence[str]], bool]] = {
    scorer.__name__: scorer for scorer in (strict, ovobench, first_letter)
}
