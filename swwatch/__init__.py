"""Video language models that speak while they watch. docs/python.md tells more.

    import swwatch

    model = swwatch.load("output/quickstart/group")
    for token in swwatch.narrate(model, "clip.mp4"):
        print(token.text, end="", flush=True)

Nothing heavy is imported until it is asked for.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

HOMES = {
    "load": "swwatch.model.loading",
    "converse": "swwatch.narrate.video",
    "UserError": "swwatch.errors",
    "VARIANTS": "swwatch.rules.variants",
    "SYSTEMS": "swwatch.rules.systems",
    "SEE": "swwatch.policies.see",
    "KEEP": "swwatch.policies.keep",
    "SPEAK": "swwatch.policies.speak",
    "CHOOSE": "swwatch.policies.choose",
}
ROOMS = ("narrate", "watch")  # rooms that can be called
__all__ = [*HOMES, *ROOMS]


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(import_module(HOMES[name]), name)
    if name in ROOMS:
        return import_module(f"swwatch.{name}")
    raise AttributeError(f"module 'swwatch' has no attribute {name!r}")
