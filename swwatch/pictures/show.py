"""What `swwatch inspect` does once its flags are read. `settings` are command.InspectSettings."""

import torch

from swwatch.errors import UserError
from swwatch.pictures import endless, endless_drawing
from swwatch.pictures.dialogue import readings
from swwatch.pictures.sample import FEW, draw
from swwatch.policies.keep import Window, with_numbers
from swwatch.policies.speak import parse_schedule
from swwatch.policies.think import OFF, parse_think
from swwatch.rules.cursor import layout
from swwatch.rules.layout import Layout
from swwatch.rules.schedule import seconds_of_step
from swwatch.rules.systems import SYSTEMS
from swwatch.rules.variants import VARIANTS


def table(tokens: Layout) -> str:
    """One line a token: index, kind, step, t, h, w, number of visible tokens."""
    lines = [f"{'i':>4} {'kind':7} {'step':>4} {'t':>6} {'h':>6} {'w':>6} {'sees':>5}"]
    counts = tokens.visible().sum(1).tolist()
    for i, (kind, step) in enumerate(zip(tokens.kind, tokens.step.tolist(), strict=True)):
        t, h, w = tokens.position_ids[:, i].tolist()
        lines.append(f"{i:>4} {kind:7} {step:>4} {t:>6} {h:>6} {w:>6} {counts[i]:>5}")
    return "\n".join(lines)


def show_samples(settings) -> int:
    """A sample of one variant, or of each."""
    schedule, grids = parse_schedule(settings.schedule), [settings.size] * settings.steps
    for name in VARIANTS if settings.variant == "all" else [settings.variant]:
        think = parse_think(settings.think or OFF)
        thoughts = None if think == OFF else think.plan(settings.steps, seconds_of_step())
        how = {"schedule": schedule, "thoughts": thoughts}
        tokens = layout(name, settings.prompt_len, grids, settings.answer_len, **how)
        if settings.text:
            print(f"{name}\n{table(tokens)}")
            continue
        _refuse_many(tokens)
        path = settings.out / f"{name}.png"
        draw(name, tokens, path, f"{settings.steps} steps, {schedule}{'' if think == OFF else f', {think}'}")
        print(path)
    return 0


def show_dialogue(settings) -> int:
    """A dialogue of a system that thinks: each reading apart, in a table or along the diagonal of a mask."""
    name, read = settings.variant, readings(settings.variant, settings.steps, settings.size)
    if settings.text:
        for number, tokens in enumerate(read, start=1):
            print(f"{name}, read {number} of {len(read)}\n{table(tokens)}")
        return 0
    tokens = Layout.cat(read)
    _refuse_many(tokens)
    path, anew = settings.out / f"{name}.png", "" if len(read) == 1 else f", read anew {len(read)} times"
    title = f"{settings.steps} s, asked at {settings.steps - 1} s{anew}"
    draw(name, tokens, path, title, visible=torch.block_diag(*(tokens.visible() for tokens in read)))
    print(path)
    return 0


def _refuse_many(tokens: Layout) -> None:
    if len(tokens) > FEW:
        raise UserError(f"{len(tokens)} tokens cannot be drawn readably: choose fewer, or --text")


def show_endless(settings) -> int:
    """A stream without end."""
    name, seconds = settings.variant, 60 if settings.seconds is None else settings.seconds
    if name in SYSTEMS:
        numbers = {"vision_s": settings.window, "turns_s": settings.window, "text_sink": settings.text_sink}
        numbers |= {"text_window": settings.text_window, "flush_s": settings.flush}
        keep = with_numbers(SYSTEMS[name].keep, settings.eviction, numbers)
        how = {"keep": keep, "policy": settings.positions}
        story = endless.turns_story(name, seconds, settings.size, settings.words, **how)
    else:
        window = Window(settings.window, settings.text_sink, settings.text_window)
        sizes = settings.size, settings.words, settings.prompt_len
        story = endless.endless_story(name, seconds, *sizes, window)
    if settings.text:
        print(f"{story.title}\n{endless_drawing.table(story)}")
        return 0
    rows, columns = settings.size
    path = settings.out / f"{name}_endless.png"
    endless_drawing.draw(story, rows * columns, path)
    print(path)
    return 0
