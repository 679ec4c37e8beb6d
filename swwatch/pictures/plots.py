"""What plots share: plain axes, and files with the same bytes for the same figures."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

from swwatch.paths import whole_file


def panels(rows: int, columns: int, size: tuple[float, float], **options):
    """A figure and its axes, row by row, without a frame above and to the right, with a faint grid behind.

    Args:
        size: of the whole figure, width and height in inches.
        options: of pyplot.subplots.
    """
    figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, **options)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
    return figure, list(axes.flat)


def sheet(count: int, a_row: int, size: tuple[float, float], **options):
    """As `panels`, for so many pictures side by side; the places that are left over are empty."""
    figure, axes = panels(-(-count // a_row), a_row, size, **options)
    for axis in axes[count:]:
        axis.axis("off")
    return figure, axes[:count]


def save(figure, path: Path, top: float = 1.0) -> Path:
    """Write a figure as PNG.

    Args:
        top: what lies above this share of the height is left to a title or legend.
    """
    figure.tight_layout(rect=(0, 0, 1, top))
    with whole_file(path) as part:
        figure.savefig(part, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    return path
