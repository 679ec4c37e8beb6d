"""Plots of a report's runs, each as SVG for the page and as PNG for Markdown."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from swwatch.evaluate.report.gather import ReportedRun

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # colour-blind safe (Okabe and Ito)
DASHES = ("-", "--", ":", "-.")
INK = "#1b1c1d"  # in the SVG it becomes the page's own text colour, so that dark pages have light plots
STYLE = {
    "svg.fonttype": "none",  # letters stay letters: small, sharp, searchable
    "svg.hashsalt": "swwatch",  # same runs, same bytes
    "text.parse_math": False,  # a name may hold a dollar sign
    "font.size": 10,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#888888",
    "grid.alpha": 0.25,
    "legend.frameon": False,
}
MOST_POINTS = 200  # of a curve; the page stays small whatever the number of tokens


@dataclass(frozen=True)
class Plot:
    """A drawn plot. `text` says what is to be seen, for those who cannot see it and as the caption."""

    key: str
    title: str
    text: str
    svg: str
    png: bytes


def draw_all(runs: list[ReportedRun]) -> list[Plot]:
    """The plots of all runs that have traces; none where no run has."""
    traced = [run for run in runs if any(run.tokens.values())]
    if not traced:
        return []
    return [
        _plot(traced, "staleness", "Staleness over stream time", _staleness, STALENESS),
        _plot(traced, "gaps", "Gaps between tokens", _gaps, GAPS),
        _plot(traced, "first_token", "Time to the first token", _first_token, FIRST_TOKEN),
        _plot(traced, "tokens_per_step", "Tokens spoken at each step", _tokens_per_step, TOKENS_PER_STEP),
    ]


STALENESS = (
    "Staleness of a token: its emission minus the arrival of the newest second that it could see. Line: the median of "
    "the tokens emitted within a second of stream time; band: 5 to 95 of 100 tokens."
)
GAPS = (
    "Share of the gaps between one token's emission and the next that are at most this long, waiting for frames "
    "included. Both axes count all clips together."
)
FIRST_TOKEN = "Share of the clips whose first token came within this time of the clip's first frame, in stream time."
TOKENS_PER_STEP = (
    "Mean number of tokens spoken at a step, by the second of the step, over the clips that spoke at a later step "
    "too. A clip's last step, where the rest of the caption follows, is left out; the legend has the median number of "
    "its tokens."
)


def staleness_by_second(clips: list[list[dict]]) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of stream time in which tokens were emitted (S,), and 5, 50, 95 % quantiles of staleness in s (S, 3)."""
    emit, stale = np.array(
        [(token["t_emit_s"], token["t_emit_s"] - token["t_frame_s"]) for tokens in clips for token in tokens]
    ).T
    second = np.floor(emit).astype(int)
    seconds = np.unique(second)
    return seconds, np.array([np.quantile(stale[second == s], (0.05, 0.5, 0.95)) for s in seconds])


def token_gaps(clips: list[list[dict]]) -> np.ndarray:
    """Seconds between the emissions of consecutive tokens of a clip, all clips together."""
    times = [np.array([token["t_emit_s"] for token in tokens]) for tokens in clips]
    return np.concatenate([np.diff(each) for each in times if len(each)] or [np.zeros(0)])


def first_token_times(clips: list[list[dict]]) -> np.ndarray:
    """Stream time of each clip's first token in seconds; 0 is the arrival of its first frame."""
    return np.array([tokens[0]["t_emit_s"] for tokens in clips if tokens])


def tokens_by_step(clips: list[list[dict]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean tokens at steps 0, 1, ... before each clip's last speaking step (S,), and tokens at the last (clips,)."""
    counts = [np.bincount([token["step"] for token in tokens]) for tokens in clips if tokens]
    width = max(len(each) for each in counts) - 1
    table = np.full((len(counts), width), np.nan)
    for row, each in zip(table, counts, strict=True):
        row[: len(each) - 1] = each[:-1]
    return np.nanmean(table, axis=0) if width else np.zeros(0), np.array([each[-1] for each in counts])


def _staleness(axes: Axes, clips: list[list[dict]], label: str, **look) -> None:
    seconds, quantiles = staleness_by_second(clips)
    low, middle, high = 1000 * quantiles.T
    axes.fill_between(seconds, low, high, color=look["color"], alpha=0.15, linewidth=0)
    axes.plot(seconds, middle, label=label, marker="o", markersize=3, **look)
    axes.set(xlabel="stream time (s)", ylabel="staleness (ms)")
    axes.set_ylim(bottom=0)


def _gaps(axes: Axes, clips: list[list[dict]], label: str, **look) -> None:
    # the axis is logarithmic: what is shorter than a hundredth of a millisecond is drawn there
    _share(axes, np.maximum(1000 * token_gaps(clips), 0.01), label, **look)
    axes.set(xlabel="gap (ms)", ylabel="share of gaps", xscale="log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")  # the default writes formulas


def _first_token(axes: Axes, clips: list[list[dict]], label: str, **look) -> None:
    _share(axes, first_token_times(clips), label, **look)
    axes.set(xlabel="time to first token (s)", ylabel="share of clips")
    axes.set_xlim(left=0)


def _tokens_per_step(axes: Axes, clips: list[list[dict]], label: str, **look) -> None:
    mean, rest = tokens_by_step(clips)
    label = f"{label} (rest: {np.median(rest):g})"
    axes.plot(np.arange(len(mean)), mean, label=label, marker="o", markersize=3, **look)
    axes.set(xlabel="step (s of video)", ylabel="tokens spoken")
    axes.set_ylim(bottom=0)


def _share(axes: Axes, values: np.ndarray, label: str, **look) -> None:
    """A cumulative distribution."""
    shares = np.linspace(0, 1, min(MOST_POINTS, max(len(values), 1)))
    points = np.quantile(values, shares, method="inverted_cdf") if len(values) else shares[:0]
    axes.step(points, shares[: len(points)], where="post", label=label, **look)
    axes.set_ylim(0, 1.02)


def _plot(runs: list[ReportedRun], key: str, title: str, draw: Callable, text: str) -> Plot:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for i, run in enumerate(runs):
            look = {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % len(DASHES)]}
            name = f" {run.name}" if run.name.startswith("_") else run.name  # matplotlib hides labels with a leading _
            draw(axes, [tokens for tokens in run.tokens.values() if tokens], name, **look)
        figure.legend(loc="outside lower center", ncols=1 if max(len(run.name) for run in runs) > 24 else 2)
        png, svg = io.BytesIO(), io.StringIO()
        figure.savefig(png, format="png", dpi=110)
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Plot(key, title, text, _inline(svg.getvalue(), f"{title}. {text}"), png.getvalue())


def _inline(svg: str, label: str) -> str:
    """A whole SVG file -> an element for a page: no prologue, one label, the page's own text colour."""
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # every plot has the same names; only <defs> are referred to
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
