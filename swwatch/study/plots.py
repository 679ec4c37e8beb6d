"""The pictures of a study: bars are means over training seeds, dots the seeds."""

from pathlib import Path

import numpy as np
from matplotlib.patches import Patch

from swwatch.pictures.plots import panels, save
from swwatch.study.outcome import Outcome

SHARES = {
    "parses": "clips whose text is whole",
    "right": "events told, everything right",
    "true": "phrases that are true",
}
COLORS = ("#3b6ea5", "#d9822b", "#7a9e3d")  # of schedules


def draw_shares(outcome: Outcome, path: Path) -> Path:
    """One panel a share, one group of bars a variant, one bar a schedule."""
    schedules = _schedules(outcome)
    figure, axes = panels(len(SHARES), 1, (_width(outcome), 6.4), sharex=True)
    for axis, (share, title) in zip(axes, SHARES.items(), strict=True):
        _bars(axis, outcome, lambda v, s, share=share: 100 * outcome.over_seeds(v, s, share))
        axis.set(ylim=(0, 108), ylabel="%", title=title)
    handles = [Patch(color=color) for color in COLORS[: len(schedules)]]
    figure.legend(handles, schedules, loc="upper center", ncols=len(schedules), frameon=False, title="schedule")
    return save(figure, path, top=0.88)


def draw_delay(outcome: Outcome, path: Path) -> Path:
    """How long after the end of an event it has been told, median over events."""
    figure, (axis,) = panels(1, 1, (_width(outcome), 3))
    _bars(axis, outcome, lambda v, s: outcome.metric(v, s, "timing", "events", "delay_s", "median"))
    axis.set(ylabel="s", title="told this long after the event was over (median)")
    return save(figure, path)


def _width(outcome: Outcome) -> float:
    return 1.6 + 1.4 * len(outcome.plan.variants)


def _schedules(outcome: Outcome) -> list[str]:
    return list(dict.fromkeys(name for v in outcome.plan.variants for name in outcome.plan.schedules(v)))


def _bars(axis, outcome: Outcome, values) -> None:
    schedules, variants = _schedules(outcome), outcome.plan.variants
    width = 0.8 / len(schedules)
    for i, variant in enumerate(variants):
        mine = list(outcome.plan.schedules(variant))
        for j, schedule in enumerate(mine):
            seeds = values(variant, schedule)
            x = i + (j - (len(mine) - 1) / 2) * width
            if np.isnan(seeds).all():  # nothing was told that could be late
                continue
            axis.bar(x, np.nanmean(seeds), width * 0.9, color=COLORS[schedules.index(schedule)])
            axis.scatter([x] * len(seeds), seeds, s=9, color="black", zorder=3)
    axis.set_xticks(range(len(variants)), variants)
    axis.grid(visible=False, axis="x")
