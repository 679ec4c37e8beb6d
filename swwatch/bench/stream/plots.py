"""The two pictures of the streaming benchmark."""

from pathlib import Path

from matplotlib.ticker import NullFormatter

from swwatch.bench.stream.settings import BASELINE, REFERENCE
from swwatch.pictures.plots import panels, save

COLOURS = {  # colour-blind safe (Okabe and Ito)
    "reprefill": "#999999",
    "serial": "#000000",
    "fused": "#D55E00",
    "streams": "#0072B2",
    "two_device": "#009E73",
}
PANEL = (4.6, 3.6)  # inches


def draw(result: dict, folder: Path) -> None:
    """Write bench_stream_gain.png and bench_stream_cost.png.

    Args:
        result: as swwatch.bench.stream.measure gives it.
    """
    draw_gain(result, folder / "bench_stream_gain.png")
    draw_cost(result, folder / "bench_stream_cost.png")


def draw_gain(result: dict, path: Path) -> None:
    """S against the video tokens of a step, measured, with the bound: a panel for each model, K and length."""
    groups = _groups(result)
    figure, axes = _panels(len(groups))
    for axis, ((shape, k, steps), points) in zip(axes, groups.items(), strict=False):
        tokens = [point["video_tokens"] for point in points]
        bounds, fused = ([point[key] for point in points] for key in ("bound", "fused_bound"))
        axis.plot(tokens, bounds, "--", color="#777777", label="bound (p+g)/max(p,g)")
        axis.plot(tokens, fused, ":", color=COLOURS["fused"], label="fused, roofline")
        for name in (name for name in COLOURS if name not in (BASELINE, REFERENCE)):
            rows = [(point["video_tokens"], point["engines"].get(name, {})) for point in points]
            shown = [(count, row["gain"]) for count, row in rows if "gain" in row]
            if shown:
                axis.plot(*zip(*shown, strict=True), "o-", color=COLOURS[name], label=f"{name}, measured")
        axis.axhline(1, color="black", lw=0.8)
        title = f"{shape}, K = {k}, {steps} steps"
        axis.set(xscale="log", xlabel="video tokens a step", ylabel="S: serial by engine", title=title)
        axis.set_xticks(tokens, [str(value) for value in tokens])
        axis.minorticks_off()
        axis.set_ylim(0, 2.1)
        axis.legend(frameon=False, fontsize=8, loc="lower right")
    save(figure, path)


def draw_cost(result: dict, path: Path) -> None:
    """What the n-th step costs: flat where every token is fed once, rising where everything is run again."""
    bases: dict[str, dict] = {}
    for point in result["points"]:
        bases.setdefault(point["shape"], point)
    figure, axes = _panels(len(bases))
    for axis, (shape, base) in zip(axes, bases.items(), strict=False):
        alike = [point for point in result["points"] if _place(point) == _place(base)]
        for name, colour in COLOURS.items():
            times = [point["engines"][name]["step_times"] for point in alike if _measured(point, name)]
            if times:
                longest = max(times, key=len)
                axis.plot(range(2, len(longest) + 2), longest, color=colour, label=name)
        axis.set(yscale="log", xlabel="step of the stream", ylabel="seconds", title=f"cost of a step, {shape}")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.legend(frameon=False, fontsize=8)
    save(figure, path)


def _place(point: dict) -> tuple:
    """What of a point does not depend on how long its streams are."""
    return point["shape"], point["video_tokens"], point["k"]


def _measured(point: dict, name: str) -> bool:
    return "step_times" in point["engines"].get(name, {})


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
    width, height = PANEL
    return panels(1, max(1, count), (width * max(1, count), height))
