"""The one door: a session over a loaded checkpoint, in the form in which its variant speaks, from texts.

A narration is asked by its prompt, a chat system in its first turn; what is not given is the form's own.
"""

from collections.abc import Sequence
from dataclasses import replace
from inspect import signature
from typing import TYPE_CHECKING

from swwatch.data.prompt import load_prompts, prompt_ids
from swwatch.data.turns.prompt import SYSTEM_TEXT, Turns
from swwatch.engine.base import BaseSession
from swwatch.engine.choose import open_session
from swwatch.engine.session import Session
from swwatch.engine.turns import TurnSession
from swwatch.errors import UserError
from swwatch.policies.choose import LIMIT, Choosing, parse_choose
from swwatch.policies.speak import Speak, check_schedule, parse_schedule
from swwatch.rules import systems, variants
from swwatch.rules.systems import System
from swwatch.rules.variants import Speaks, Variant

if TYPE_CHECKING:
    from swwatch.model.loading import Loaded


def open_stream(
    loaded: "Loaded",
    *,
    engine: str = "serial",
    question: str | None = None,
    system: str | None = None,
    before: Sequence[tuple[str, str]] = (),
    schedule: str | Speak | None = None,
    choose: Choosing | str | dict | None = None,
    limit: int | None = None,
    key: str = "",
    form: System | None = None,
    watcher=None,
    clock=None,
    **options,
) -> BaseSession:
    """A session of a loaded checkpoint. It is begun by driving its `run`.

    Args:
        engine: of engine.choose.ENGINES; "auto" is settled by `choose` there.
        question: what is asked; by default the evaluation question, or the chat system's own query.
        system: text of the system turn; by default that of configs/prompts.yaml, or the chat system's own.
        before: (role, words) of turns of text between the system's and this one; the video stands behind them.
        schedule: of a narration; by default the checkpoint's own.
        choose: how tokens are chosen, or what differs there from the own way: the checkpoint's, else the likeliest
            token, or as the chat system does.
        limit: no answer is longer, whatever it has of its own; one of a
            narration that has the default has this.
        key: seeds random schedules; the video id.
        form: of a chat system, where it differs from its row in the table.
        watcher: of the engine, see `open_watcher`.
        options: of the form: `keep` and `think` of both, by default the checkpoint's own; those of TurnSession.
    Raises:
        UserError: what the variant or the engine cannot do.
    """
    settings = loaded.settings
    row, more = variants.get(settings.variant), {"watcher": watcher, "clock": clock}
    question = own_question(settings) if question is None else question
    in_turns = row.speaks is Speaks.TURNS
    if options.get("keep") is None:
        options["keep"] = settings.own_keep
    if settings.think is not None:
        options.setdefault("think", settings.think)
    choose = limited(chosen(settings.own_choose, choose), limit, row)
    if in_turns:
        if schedule is not None:
            check_schedule(schedule, row.name)
        turns = loaded.turns(form or systems.get(row.name))
        options |= {"query": question, "system_text": SYSTEM_TEXT if system is None else system, "before": before}
        return _open(engine, loaded, turns, options, choose=choose, **more)
    system = load_prompts().system if system is None else system
    prompt = prompt_ids(loaded.tokenizer, system, question, loaded.markup, before)
    schedule = parse_schedule(schedule or settings.schedule).for_clip(key)
    return _open(engine, loaded, prompt, options, schedule=schedule, choose=choose, **more)


def own_question(settings) -> str:
    """What a session without a question is asked: a chat system's own query, else the evaluation question.

    Args:
        settings: the checkpoint's.
    """
    if variants.get(settings.variant).speaks is Speaks.TURNS:
        return systems.get(settings.variant).query
    return load_prompts().eval_question


def limited(choose: Choosing, limit: int | None, variant: Variant) -> Choosing:
    """The same with a program's limit on an answer; one of a narration that has the default limit has this."""
    is_open = variant.speaks is not Speaks.TURNS and choose.max_new_tokens in (None, LIMIT)
    if limit is not None and (is_open or choose.left(0) > limit):
        return replace(choose, max_new_tokens=limit)
    return choose


def pace_of(settings, schedule: str | Speak | None = None) -> str:
    """The schedule of a narration, in words; "" for a chat system, which has none.

    Args:
        settings: the checkpoint's.
        schedule: as asked for; by default the checkpoint's own.
    Raises:
        UserError: no such schedule.
    """
    in_turns = variants.get(settings.variant).speaks is Speaks.TURNS
    return "" if in_turns else str(parse_schedule(schedule or settings.schedule))


def about(settings, question: str | None = None, schedule: str | Speak | None = None) -> str:
    """What a stream is, in words.

    Args:
        settings: the checkpoint's.
        question, schedule: as asked for.
    """
    how = ", ".join(filter(None, [settings.variant, pace_of(settings, schedule)]))
    return f"{how} | {own_question(settings) if question is None else question}"


def chosen(own: Choosing, choice: Choosing | str | dict | None) -> Choosing:
    """How tokens are chosen: as asked, or as the form does but for what was asked."""
    if choice is None or isinstance(choice, dict):
        return replace(own, **(choice or {}))
    return parse_choose(choice)


def _open(engine: str, loaded: "Loaded", prompt: list[int] | Turns, options: dict, **more) -> BaseSession:
    known = signature(TurnSession if isinstance(prompt, Turns) else Session).parameters
    for name in options.keys() - known.keys():
        raise UserError(f"{loaded.settings.variant!r} has no {name.replace('_', ' ')}: leave it out")
    return open_session(engine, loaded.model, prompt, **options, **more)
