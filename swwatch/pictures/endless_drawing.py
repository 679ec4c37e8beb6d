"""Pictures and tables of what a stream without end keeps (swwatch.pictures.endless)."""

from itertools import groupby
from pathlib import Path

import torch

from swwatch.paths import make_folder, whole_file
from swwatch.pictures.endless import Story, TokenRun, shares
from swwatch.pictures.sample import COLOURS
from swwatch.rules.layout import Kind

SHOWN = {  # what a run is -> colour, name in the legend
    "prompt": (COLOURS[Kind.PROMPT], "prompt"),
    "marks": ("#CCCCCC", "labels and markup"),
    "query": ("#000000", "question"),
    "video": (COLOURS[Kind.VIDEO], "video"),
    "previous": (COLOURS[Kind.HEADER], "words, as previous text"),
    "words": (COLOURS[Kind.ANSWER], "words"),
}
WORDS = ("words", "previous")


def table(story: Story) -> str:
    """What is kept at the end, a line for each second: tokens of each sort, and the positions that they have."""
    lines = [f"{'second':>9} {'video':>6} {'words':>6} {'other':>6} {'first':>6} {'last':>6}"]
    runs = [run for run in story.final_runs if len(run)]
    for key, group in groupby(runs, key=_place):
        part = list(group)
        count = {what: sum(len(run) for run in part if run.what == what) for what in SHOWN}
        video, words = count["video"], count["words"] + count["previous"]
        where = torch.cat([run.position_ids for run in part], dim=1)
        first, last, other = int(where.min()), int(where.max()), sum(count.values()) - video - words
        lines.append(f"{key:>9} {video or '.':>6} {words or '.':>6} {other or '.':>6} {first:>6} {last:>6}")
    return "\n".join([*lines, story_text(story)])


def story_text(story: Story) -> str:
    """In a line, how much is left of it."""
    held = sum(len(run) for run in story.final_runs)
    last = max(int(run.position_ids.max()) for run in story.final_runs if len(run))
    return (
        f"{held} of {story.num_fed} tokens fed are kept; the largest position is {last}, "
        f"it would be {story.largest} had nothing gone"
    )


def draw(story: Story, video_tokens: int, path: Path) -> None:
    """Write one picture: which seconds are kept as time goes by, and where the kept tokens stand at the end.

    Args:
        video_tokens: of a second.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 5.4))
    _draw_seconds(left, story, video_tokens, ("video",), "video that is kept")
    _draw_seconds(middle, story, story.words, WORDS, "words that are kept")
    _draw_positions(right, story)
    there = {run.what for run in story.final_runs if len(run)}
    handles = [Patch(color=colour, label=name) for what, (colour, name) in SHOWN.items() if what in there]
    figure.legend(handles=handles, loc="lower center", ncols=len(handles))
    figure.suptitle(f"{story.title}: {story_text(story)}", fontsize=10)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    make_folder(path.parent)
    with whole_file(path) as part:
        figure.savefig(part, dpi=110)
    plt.close(figure)


def _place(run: TokenRun) -> str:
    return "previous" if run.what == "previous" else "prompt" if run.seconds[0] < 0 else str(run.seconds[0])


def _draw_seconds(axes, story: Story, of: int, what: tuple[str, ...], title: str) -> None:
    """A column for each moment: how much of every second so far is kept then. What was folded into previous text is
    told apart from what is still in its turn."""
    from matplotlib.colors import to_rgb

    seconds = max(story.now)
    picture = torch.ones(seconds, seconds, 3)  # rows: seconds of the stream; columns: moments
    for moment in range(1, seconds + 1):
        runs = story.now.get(moment)
        picture[moment:, moment - 1] = 0.93  # has not come yet
        if runs is None:  # in the middle of a long first turn
            picture[:moment, moment - 1] = 0.93
            continue
        for name in what:
            colour = torch.tensor(to_rgb(SHOWN[name][0]))
            share = torch.tensor(shares(runs, seconds, of, (name,)))[:, None]
            shown = picture[:, moment - 1]
            picture[:, moment - 1] = shown * (1 - share) + colour * share
    extent = (0.5, seconds + 0.5, -0.5, seconds - 0.5)
    axes.imshow(picture.numpy(), origin="lower", extent=extent, interpolation="nearest", aspect="auto")
    axes.set(xlabel="seconds streamed", ylabel="second of the stream", title=title)


def _draw_positions(axes, story: Story) -> None:
    """In the order of the cache: a square for t, a bar from the smallest to the largest of t, h, w."""
    where = torch.cat([run.position_ids for run in story.final_runs], dim=1)
    far = (where >= story.first) & (story.first > 0)  # a gap before it would flatten everything else
    base = int(where[~far].max()) + 4
    where[far] += base - story.first

    place = 0
    for run in story.final_runs:
        x = torch.arange(place, place + len(run))
        place += len(run)
        colour = SHOWN[run.what][0]
        axes.vlines(x, where[:, x].amin(0), where[:, x].amax(0), color=colour, lw=2, alpha=0.35)
        axes.plot(x, where[0, x], "s", color=colour, ms=3)

    if bool(far.any()):
        axes.axhline(base - 2, color="#888888", lw=1, ls="--")
        ticks = [int(t) for t in axes.get_yticks() if 0 <= t < base - 2]
        top = int(where.max()) - base
        ticks += [base + t for t in range(0, top + 1, max(5, top // 6))]
        axes.set_yticks(ticks, [str(t) if t < base else str(story.first + t - base) for t in ticks])
    axes.set(xlabel="token, in the order kept", ylabel="position id (square: t; bar: t, h, w)", title="positions")
