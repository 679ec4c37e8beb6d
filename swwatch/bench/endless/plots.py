"""Pictures of the endless benchmark: one for each quantity, a line for each mode, over stream time."""

from pathlib import Path

from swwatch.pictures.plots import panels, save

COLOURS = {  # colour-blind safe (Okabe and Ito)
    "full": "#000000",
    "restart": "#999999",
    "recompute": "#56B4E9",
    "flush": "#CC79A7",
    "sink_window": "#0072B2",
    "serial": "#E69F00",
    "fused": "#D55E00",
}
QUANTITIES = {  # how the file's name ends -> column of the curve, label, unit, values are times this, logarithmic
    "token": ("step_s", "wall time a token, watching included", "seconds", 1, True),
    "step": ("step_s", "wall time a step", "seconds", 1, True),
    "cpu": ("cpu_s", "CPU time a step", "seconds", 1, True),
    "cache": ("cache", "keys and values", "MB", 1e-6, True),
    "memory": ("memory", "memory of the process, more than before", "MB", 1e-6, False),
    "position": ("position", "largest position of a step", "position", 1, True),
}


def draw(result: dict, folder: Path) -> None:
    """Write bench_endless_<quantity>.png for every quantity.

    Args:
        result: as swwatch.bench.endless.measure gives it.
    """
    tokens = result["settings"]["tokens"]
    for name, (column, label, unit, scale, logarithmic) in QUANTITIES.items():
        if name == "token":
            scale = 1 / tokens
        figure, (axes,) = panels(1, 1, (7, 4.2))
        for mode in sorted(result["modes"], key=lambda name: (*COLOURS, name).index(name)):
            curve, ended = result["modes"][mode]["curve"], result["modes"][mode]["ended"]
            if name == "token" and "token_s" in curve:  # which older files lack
                column, scale = "token_s", 1
            if not curve[column] or None in curve[column]:
                continue
            values = [value * scale for value in curve[column]]
            (line,) = axes.plot(curve["at_s"], values, color=COLOURS.get(mode), label=mode, lw=1.4)
            if ended:
                axes.plot(curve["at_s"][-1], values[-1], "x", color=line.get_color(), ms=9, mew=2)
        if name == "step" or (name == "token" and not result["settings"].get("model")):
            line = 1 / tokens if name == "token" else 1.0
            axes.axhline(line, color="#009E73", ls="--", lw=1, label=f"real time: {line:g} s")
        if logarithmic and axes.lines and all(value > 0 for line in axes.lines for value in line.get_ydata()):
            axes.set_yscale("log")
        axes.set(xlabel="stream time, seconds", ylabel=unit, title=label)
        if axes.lines:
            axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        save(figure, folder / f"bench_endless_{name}.png")
