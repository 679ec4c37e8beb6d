"""Dispider's head: after every step a linear layer on the state of its last token says whether an answer begins.

As policies/speak/gate.py in all but that: the decision takes nothing from the words, and is learned apart from them.
Source: arXiv 2501.03218, where a model of its own decides about clips of 16 frames, at a token put there for it, and
an answer begins above 0, a chance of one half. Here the model itself decides, at every step and at the token that is
there.
"""

from dataclasses import dataclass
from typing import ClassVar

from swwatch.policies.speak.gate import Gate
from swwatch.policies.table import option


@dataclass(frozen=True)
class Head(Gate):
    """As Gate, by a layer of the model for this alone."""

    name: ClassVar[str] = "head"
    has_head: ClassVar[bool] = True
    floor: float = option(0.5, least=0, most=1)
