"""The table of engines, which one is taken where none is named, and how a session of one is opened.

All emit the same tokens for the same schedule; they differ in when. The table imports no torch.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from swwatch.errors import UserError
from swwatch.policies.speak.policy import NOT_YET, PROBE
from swwatch.policies.think import OFF
from swwatch.rules import variants
from swwatch.rules.variants import Speaks

if TYPE_CHECKING:
    import torch

    from swwatch.data.turns.prompt import Turns
    from swwatch.engine.base import BaseSession
    from swwatch.model.protocols import StreamingModel
    from swwatch.policies.memory.policy import Keep
    from swwatch.policies.speak import Speak
    from swwatch.policies.think import Think
    from swwatch.rules.variants import Variant

AUTO = "auto"
TURN_SESSION = ("swwatch.engine.turns", "TurnSession")  # of the serial engine, where a variant speaks in chat turns


@dataclass(frozen=True)
class Engine:
    """A row of the table.

    Attributes:
        about: one line.
        where: module and class of its session, imported when it is wanted.
        watcher: module and function that makes the watcher of a model, where the engine has one.
    """

    about: str
    where: tuple[str, str]
    watcher: tuple[str, str] | None = None

    @property
    def session(self) -> "type[BaseSession]":
        return _find(self.where)


# Adding an engine: one row here, its session in a module of its own.
ENGINES = {
    "serial": Engine("watch a step, speak its tokens, watch the next", ("swwatch.engine.session", "Session")),
    "fused": Engine(
        "the next step rides in the forwards of this one's words", ("swwatch.engine.fused", "FusedSession")
    ),
    "streams": Engine(
        "the next step is watched in a thread beside the words, on a CUDA stream of its own",
        ("swwatch.engine.beside", "StreamsSession"),
        ("swwatch.engine.watcher", "ThreadWatcher"),
    ),
    "two_device": Engine(
        "the next step is watched by a copy of the model on a second GPU, or in a second process",
        ("swwatch.engine.beside", "TwoDeviceSession"),
        ("swwatch.engine.two_device", "second_device"),
    ),
}


def choose(name: str, variant: str, device: "torch.device | str", num_devices: int) -> tuple[str, str]:
    """Settle the engine of a variant on a machine.

    Args:
        name: of `ENGINES`, or "auto".
        device: that the model is on.
        num_devices: GPUs that there are.
    Returns:
        The engine's name, and why it is taken.
    Raises:
        UserError: no such engine, or it cannot run the variant.
    """
    if name != AUTO:
        check(name, variant)
        return name, "asked for"
    speaks = variants.get(variant).speaks
    if speaks is not Speaks.PARALLEL:
        kinds = {
            Speaks.ALTERNATING: "alternates in one sequence",
            Speaks.OFFLINE: "speaks after the whole video",
            Speaks.TURNS: "watches between its turns",
        }
        kind = kinds[speaks]
        return "serial", f"{variant} {kind}: there is nothing to do at the same time"
    if not str(device).startswith("cuda"):
        return "serial", "on a CPU watching and speaking are both bound by computing, and at once they share its cores"
    why = "one forward reads the weights once for the words and for the next step's video"
    if num_devices > 1:
        why += "; a second GPU is used where two_device is asked for"
    return "fused", why


def check_name(name: str) -> None:
    """Raises UserError: it is no engine's name."""
    if name not in (AUTO, *ENGINES):
        raise UserError(f"no engine {name!r}: choose one of {', '.join(ENGINES)} or {AUTO}")


def check(name: str, variant: str) -> None:
    """Refuse what cannot run.

    Raises:
        UserError: no such engine, or it cannot run the variant: then which one can.
    """
    check_name(name)
    if name != "serial":
        check_parallel(name, variants.get(variant))


def check_keep(engine: str, keep: "Keep | None") -> None:
    """Raises UserError: something is to go from the cache, and the engine's watcher has one that it never leaves."""
    if keep is not None and keep.forgets and engine != AUTO and ENGINES[engine].watcher is not None:
        raise UserError(f"the engine {engine!r} forgets nothing: take serial or fused for a stream without end")


def check_parallel(engine: str, variant: "Variant") -> None:
    """Refuse an engine that watches while it speaks where the variant cannot.

    Raises:
        UserError: which engine to take instead.
    """
    if variant.speaks is Speaks.PARALLEL:
        return
    why = {
        Speaks.ALTERNATING: "what is watched stands behind what is said in one sequence",
        Speaks.OFFLINE: "it speaks after the whole video",
        Speaks.TURNS: "it speaks in chat turns, each of which ends before the next second is watched",
    }[variant.speaks]
    raise UserError(f"the engine {engine!r} cannot run the variant {variant.name!r}: {why}. Take the engine 'serial'")


def why_not_fast(
    variant: str, window: object | None = None, schedule: "Speak | None" = None, think: "Think | None" = None
) -> str | None:
    """Why sessions of a variant cannot be on the fast path (model/cuda_graph_model.py), which neither moves tokens nor
    begins anew; None: they can.

    Args:
        window: what is kept of a stream without end; None: all.
        schedule: by which they speak, where it is known.
        think: by which they think; None: they do not.
    """
    if variants.get(variant).speaks is Speaks.TURNS:
        return f"{variant} forgets, and CUDA graphs read memory that never moves"
    if schedule is not None and PROBE in schedule.needs:
        return f"{schedule} reads words anew, and CUDA graphs read memory that never moves"
    if schedule is not None and NOT_YET in schedule.needs:
        return f"{schedule} decides by what was watched, of which CUDA graphs give nothing but keys and values"
    if think not in (None, OFF):
        return f"think {think}: thoughts have no place in the memory of CUDA graphs"
    return None if window is None else "forgetting moves what is kept, and CUDA graphs read memory that never moves"


def open_session(
    engine: str, model: "StreamingModel", prompt: "list[int] | Turns", *, watcher=None, **options
) -> "BaseSession":
    """A session of a named engine, in the form in which the checkpoint's variant speaks. Driving its `run` begins it.

    Args:
        engine: of `ENGINES`; "auto" is settled by `choose`.
        prompt: token ids up to and including <|vision_start|>; for chat turns what makes their spans.
        watcher: for streams and two_device; see `open_watcher`. Sessions may share one, and it outlives them.
        options: of `Session`, or of `TurnSession`.
    Raises:
        UserError: as `check`; or the engine needs a watcher and was given none, or the other way round.
    """
    check(engine, model.settings.variant)
    row = ENGINES[engine]
    if (watcher is None) != (row.watcher is None):
        raise UserError(f"the engine {engine!r} " + ("needs a watcher" if row.watcher else "has no watcher"))
    if variants.get(model.settings.variant).speaks is Speaks.TURNS:
        return _find(TURN_SESSION)(model, prompt, **options)
    return row.session(model, prompt, **options, **({} if watcher is None else {"watcher": watcher}))


def open_watcher(engine: str, model: "StreamingModel"):
    """The watcher that sessions of this engine share, or None where it has none. Close it after them.

    Raises:
        UserError: the machine cannot have it.
    """
    where = ENGINES[engine].watcher
    return None if where is None else _find(where)(model)


def _find(where: tuple[str, str]):
    module, name = where
    return getattr(import_module(module), name)
