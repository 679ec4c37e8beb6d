"""Frames in, words out: one stream at a time. The room is also the function `swwatch.narrate`; see video.narrate."""

import sys
from types import ModuleType


class _Room(ModuleType):
    """A module may have a class of its own; this one can be called, since a function of the same name is wanted."""

    def __call__(self, *arguments, **options):
        from swwatch.narrate.video import narrate

        return narrate(*arguments, **options)


sys.modules[__name__].__class__ = _Room
