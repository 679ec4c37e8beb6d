"""What a video step brings: a grid of tokens, of which some may never reach the LLM, and the text around it.

The grid is the grid, whatever is dropped: positions, ends and the anchors of what follows come from it, so that every
position rule gives a token the same numbers with and without dropping.
"""

from typing import NamedTuple


class Patch(NamedTuple):
    """A merged grid in row-major order. A plain (rows, columns) is one of which all is kept.

    Attributes:
        rows, columns: of the grid; (0, 0) where the stream ended without a further frame.
        kept: cells that go to the LLM, rising; None: all.
        before, after: text tokens that announce the grid and that close it, in families whose steps have such (see
            rules.families). They belong to the step as its video does, and stay where all of the grid is dropped.
    """

    rows: int
    columns: int
    kept: tuple[int, ...] | None = None
    before: int = 0
    after: int = 0

    @property
    def num_around(self) -> int:
        return self.before + self.after

    @property
    def num_arrived(self) -> int:
        return self.rows * self.columns

    @property
    def num_dropped(self) -> int:
        return 0 if self.kept is None else self.num_arrived - len(self.kept)


class Placed(NamedTuple):
    """Where the grid of a patch stands, whichever of its tokens are kept.

    Attributes:
        start: (t, h, w) of its first cell.
        before: text tokens that announce it, right before.
    """

    start: tuple[int, int, int]
    rows: int
    columns: int
    before: int = 0

    @property
    def end(self) -> int:
        """The largest position that it reaches."""
        t, h, w = self.start
        return max(t, h + self.rows - 1, w + self.columns - 1)
