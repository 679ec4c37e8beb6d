"""The two figures of the streaming benchmark."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import NullFormatter  # noqa: E402

from swwatch.bench.stream.settings import BASELINE, REFERENCE  # noqa: E402

COLOURS = {  # colour-blind safe (Okabe and Ito)
    "reprefill": "#999999",
    "serial": "#000000",
    "fused": "#D55E00",
    "streams": "#0072B2",
    "two_device": "#009E73",
}


def draw_gain(result: dict, path: Path) -> Path:
    """S against the video tokens of a step, measured, with the bound: a panel for each model, K and length."""
    groups = _groups(result)
    figure, axes = _panels(len(groups))
    for axis, ((shape, k, steps), points) in zip(axes, groups.items(), strict=False):
        tokens = [point["video_tokens"] for point in points]
        axis.plot(tokens, [point["bound"] for point in points], "--", color="#777777", label="bound (p+g)/max(p,g)")
        axis.plot(
            tokens, [point["fused_bound"] for point in points], ":", color=COLOURS["fused"], label="fused, roofline"
        )
        for name in (name for name in COLOURS if name not in (BASELINE, REFERENCE)):
            shown = [
                (p["video_tokens"], p["engines"][name]["gain"]) for p in points if "gain" in p["engines"].get(name, {})
            ]
            if shown:
                axis.plot(*zip(*shown, strict=True), "o-", color=COLOURS[name], label=f"{name}, measured")
        axis.axhline(1, color="black", lw=0.8)
        axis.set(
            xscale="log",
            xlabel="video tokens a step",
            ylabel="S: serial by engine",
            title=f"{shape}, K = {k}, {steps} steps",
        )
        axis.set_xticks(tokens, [str(value) for value in tokens])
        axis.minorticks_off()
        axis.set_ylim(0, 2.1)
        axis.legend(frameon=False, fontsize=8, loc="lower right")
    return _save(figure, path)


def draw_cost(result: dict, path: Path) -> Path:
    """What the n-th step costs: flat where every token is fed once, rising where everything is run again."""
    longest: dict[str, dict] = {}
    for point in result["points"]:
        kept = longest.get(point["shape"])
        fixed = kept is None or (point["video_tokens"], point["k"]) == (kept["video_tokens"], kept["k"])
        if fixed and (kept is None or point["steps"] > kept["steps"]):
            longest[point["shape"]] = point
    figure, axes = _panels(len(longest))
    for axis, (shape, point) in zip(axes, longest.items(), strict=True):
        for name, colour in COLOURS.items():
            source = _longest_with(result, point, name)
            if source is not None:
                times = source["engines"][name]["step_times"]
                axis.plot(range(2, len(times) + 2), times, color=colour, label=name)
        axis.set(yscale="log", xlabel="step of the stream", ylabel="seconds", title=f"cost of a step, {shape}")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.legend(frameon=False, fontsize=8)
    return _save(figure, path)


def _longest_with(result: dict, like: dict, name: str) -> dict | None:
    """The longest stream with this one's video tokens and K in which the engine was measured."""
    key = [like[part] for part in ("shape", "video_tokens", "k")]
    found = [
        point
        for point in result["points"]
        if [point[part] for part in ("shape", "video_tokens", "k")] == key
        and "step_times" in point["engines"].get(name, {})
    ]
    return max(found, key=lambda point: point["steps"], default=None)


def _groups(result: dict) -> dict[tuple, list[dict]]:
    """Points that differ in video tokens alone, in their order; lone ones only if all are.

    Returns:
        (shape, k, steps) -> points.
    """
    groups: dict[tuple, list[dict]] = {}
    for point in result["points"]:
        if "bound" in point:
            groups.setdefault((point["shape"], point["k"], point["steps"]), []).append(point)
    many = {key: points for key, points in groups.items() if len(points) > 1} or groups
    return {key: sorted(points, key=lambda point: point["video_tokens"]) for key, points in many.items()}


def _panels(count: int):
    figure, axes = plt.subplots(1, max(1, count), figsize=(4.6 * max(1, count), 3.6), squeeze=False)
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
    return figure, axes[0]


def _save(figure, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})  # the same bytes for the same figures
    plt.close(figure)
    return path
