"""The one way in which everybody asks a policy of SEE: a stream as patches come, training for a whole clip."""

from collections.abc import Iterable, Sequence
from copy import deepcopy

import torch

from swwatch.policies.see.policy import Merged, See, TowerState
from swwatch.rules.chosen import chosen
from swwatch.rules.patch import Patch


class Seen:
    """One stream under a policy: patches in order, and how many of their tokens never go further.

    Attributes:
        num_arrived, num_dropped: tokens so far.
    """

    def __init__(self, policy: See):
        self.policy, self._state = policy, policy.begin()
        self.num_arrived = self.num_dropped = 0

    @property
    def reuse(self) -> TowerState | None:
        """What runs the tower's blocks in this stream; None: they run as they are."""
        return self._state if self.policy.reuses else None

    def state(self) -> dict:
        """What later patches depend on, in what the policy's own state is made of."""
        facts = {name: value for name, value in vars(self._state).items() if name != "policy"}
        return deepcopy(vars(self) | {"policy": str(self.policy), "_state": facts})

    def load_state(self, state: dict) -> None:
        """Go on from a `state` of the same policy."""
        self.num_arrived, self.num_dropped = state["num_arrived"], state["num_dropped"]
        vars(self._state).update(deepcopy(state["_state"]))

    def lay(self, pixel_values: torch.Tensor, grid: tuple[int, int]) -> Patch:
        """The next patch as it is laid out: what is left of it, or, where the policy decides late, all.

        Args:
            pixel_values: (patches, D) of the processor, those of one merged token next to each other.
            grid: merged (rows, columns).
        Raises:
            ValueError: as `look`.
        """
        if self.policy.decides_late:
            return Patch(*grid)
        return self._ask(pixel_values.reshape(grid[0] * grid[1], -1), *grid)[0]

    def look(self, features: torch.Tensor, grid: tuple[int, int], num_deep: int = 0) -> tuple[Patch, torch.Tensor]:
        """What a policy that decides late leaves of the next patch.

        Args:
            features: (rows x columns, W) of the vision tower, W = (1 + num_deep) D; it decides by the first D.
        Returns:
            The patch, and the features (kept, W) of its tokens: gradients go through these, and not through the
            decision.
        Raises:
            ValueError: the policy answers with something else than cells of the grid in rising order, or with weights
                of another shape.
        """
        patch, weights = self._ask(features[:, : features.shape[1] // (1 + num_deep)], *grid)
        if weights is not None:
            return patch, weights.to(features) @ features
        return patch, features if patch.kept is None else features[chosen(patch.kept, features.device)]

    def count(self, patch: Patch) -> None:
        """A patch that was decided on elsewhere."""
        self.num_arrived += patch.num_arrived
        self.num_dropped += patch.num_dropped

    @torch.no_grad()
    def _ask(self, tokens: torch.Tensor, rows: int, columns: int) -> tuple[Patch, torch.Tensor | None]:
        answer, weights = self._state.keep(tokens.detach(), rows, columns), None
        if isinstance(answer, Merged):
            answer, weights = answer
        patch = Patch(rows, columns, None if answer is None else tuple(int(cell) for cell in answer))
        if answer is not None and list(patch.kept) != sorted(set(patch.kept) & set(range(rows * columns))):
            raise ValueError(f"see {self.policy} must keep cells below {rows * columns} in rising order, not {answer}")
        if weights is not None and tuple(weights.shape) != (len(patch.kept), len(tokens)):
            raise ValueError(
                f"see {self.policy} must weigh {len(tokens)} features for each of {len(patch.kept)} cells, not "
                f"{tuple(weights.shape)}"
            )
        self.count(patch)
        return patch, weights


def see_video(policy: See, pixel_values: torch.Tensor, grids: Sequence[tuple[int, int]]) -> list[Patch]:
    """The patches of one whole video as they are laid out, asked for as a stream would.

    Args:
        pixel_values: (patches, D) of all steps, in order.
        grids: merged (rows, columns) of each step.
    """
    if not policy.drops or policy.decides_late:
        return [Patch(*grid) for grid in grids]
    stream, begin, patches = Seen(policy), 0, []
    merged = len(pixel_values) // sum(rows * columns for rows, columns in grids)
    for rows, columns in grids:
        end = begin + rows * columns * merged
        patches.append(stream.lay(pixel_values[begin:end], (rows, columns)))
        begin = end
    return patches


def look_at_video(
    policy: See, features: torch.Tensor, grids: Sequence[tuple[int, int]], num_deep: int = 0
) -> tuple[list[Patch], torch.Tensor]:
    """What a policy that decides late leaves of one whole video, asked for as a stream would.

    Args:
        features: (merged tokens, W) of all steps, in order; num_deep: as `Seen.look`.
    Returns:
        The patches, and the features (kept, W) of their tokens, as `Seen.look`.
    """
    stream, patches, left = Seen(policy), [], []
    for part, grid in zip(features.split([rows * columns for rows, columns in grids]), grids, strict=True):
        patch, rows_left = stream.look(part, grid, num_deep)
        patches.append(patch)
        left.append(rows_left)
    return patches, torch.cat(left)


def kept_features(patches: Iterable[Patch]) -> list[int] | None:
    """Which of the merged features of several patches behind one another are kept; None: all."""
    indices, first = [], 0
    for patch in patches:
        cells = range(patch.num_arrived) if patch.kept is None else patch.kept
        indices += [first + cell for cell in cells]
        first += patch.num_arrived
    return None if len(indices) == first else indices
