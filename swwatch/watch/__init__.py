"""A camera, a stream or a file, narrated here or by a server. The room is also the function `swwatch.watch`."""

import sys
from types import ModuleType


class _Room(ModuleType):
    """As swwatch.narrate."""

    def __call__(self, *arguments, **options):
        from swwatch.watch.local import watch

        return watch(*arguments, **options)


sys.modules[__name__].__class__ = _Room
