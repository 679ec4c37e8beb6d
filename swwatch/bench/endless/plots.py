"""Figures of the endless benchmark: one for each quantity, a line for each mode, over stream time."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

COLOURS = {  # colour-blind safe (Okabe and Ito)
    "full": "#000000",
    "restart": "#999999",
    "recompute": "#56B4E9",
    "flush": "#CC79A7",
    "sink_window": "#0072B2",
    "serial": "#E69F00",
    "fused": "#D55E00",
}
QUANTITIES = {  # name of the file's ending -> label, unit, logarithmic
    "token": ("wall time a token, watching included", "seconds", True),
    "step": ("wall time a step", "seconds", True),
    "cpu": ("CPU time a step", "seconds", True),
    "cache": ("keys and values", "MB", True),
    "memory": ("memory of the process, more than before", "MB", False),
    "position": ("largest position of a step", "position", True),
}


def draw_all(result: dict, folder: Path, name: str) -> list[Path]:
    """Write `<name>_<quantity>.png` for every quantity."""
    paths = []
    for quantity, (label, unit, logarithmic) in QUANTITIES.items():
        figure, axes = plt.subplots(figsize=(7, 4.2))
        for mode in (mode for mode in COLOURS if mode in result["modes"]):
            curve = result["modes"][mode]["curve"]
            values = values_of(curve, quantity, result["settings"]["tokens"])
            if values:
                axes.plot(curve["at_s"], values, color=COLOURS[mode], label=mode, lw=1.4)
                if result["modes"][mode]["ended"]:
                    axes.plot(curve["at_s"][-1], values[-1], "x", color=COLOURS[mode], ms=9, mew=2)
        if quantity in ("token", "step"):
            line = 1 / result["settings"]["tokens"] if quantity == "token" else 1.0
            axes.axhline(line, color="#009E73", ls="--", lw=1, label=f"real time: {line:g} s")
        if logarithmic and axes.lines and _positive(axes):
            axes.set_yscale("log")
        axes.set(xlabel="stream time, seconds", ylabel=unit, title=label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.tight_layout()
        path = folder / f"{name}_{quantity}.png"
        figure.savefig(path, dpi=110, metadata={"Software": None})  # the same bytes for the same figures
        plt.close(figure)
        paths.append(path)
    return paths


def values_of(curve: dict, quantity: str, tokens: int) -> list[float]:
    """What is drawn; nothing where it is not known."""
    column, scale = {
        "token": ("step_s", 1 / tokens),
        "step": ("step_s", 1),
        "cpu": ("cpu_s", 1),
        "cache": ("cache", 1e-6),
        "memory": ("memory", 1e-6),
        "position": ("position", 1),
    }[quantity]
    values = curve[column]
    return [] if any(value is None for value in values) else [value * scale for value in values]


def _positive(axes) -> bool:
    return all(value > 0 for line in axes.lines for value in line.get_ydata())
