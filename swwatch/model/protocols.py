"""What sessions and their drivers need of a model, and of a cache. Whatever has it serves, of whatever family.

What not all can do is a flag: a session asks it once, and says what to take instead.
Legend: Q new tokens, K cached ones, W width of what goes into the LLM (see model.streaming), V vocabulary.
"""

from collections.abc import Sequence
from typing import Any, Protocol, Self, runtime_checkable

import torch

from swwatch.data.prompt import Markup
from swwatch.model.cache import Mark
from swwatch.model.long_term import LongTerm
from swwatch.model.parking import Parking
from swwatch.model.settings import Settings
from swwatch.model.vision_tower import VideoFeatures
from swwatch.policies.see.policy import TowerState
from swwatch.rules.layout import Layout


@runtime_checkable
class SessionCache(Protocol):
    """Keys and values of one session, and where every token stands.

    Attributes:
        moves: what is held can be given other positions, see ForgetfulCache.reindex.
        num_fed: tokens ever taken in; evictions: how often some went.
    """

    moves: bool
    num_fed: int
    evictions: int

    @property
    def tokens(self) -> dict[int, Layout]:
        """Stream -> the tokens of that store, in order."""

    def export(self, num_from: int = 0) -> tuple[Layout, torch.Tensor]:
        """What was watched, from a token on: its Q rows, their keys and values (layers, 2, B, N, Q, D)."""

    def receive(self, rows: Layout, keys_values: torch.Tensor) -> None:
        """Take in what another cache exported."""

    def mark(self) -> Mark:
        """How far it is filled."""

    def restore(self, mark: Mark) -> None:
        """Forget what came since."""

    def state(self) -> dict:
        """All of it, for torch.save."""

    def load_state(self, state: dict) -> None:
        """Into an empty cache."""


@runtime_checkable
class ForgetfulCache(SessionCache, Protocol):
    """One that tokens may leave: of a model that is not `static`.

    Attributes:
        parking: what has left it, and may come back.
        long_term: the memory that its video is written into; None: it has none.
        searching: the queries of the next forward are kept.
        layers: of the LLM, with the `query` of each.
    """

    parking: Parking
    long_term: LongTerm | None
    searching: bool
    layers: Sequence[Any]

    def keep(self, stream: int, index: torch.Tensor) -> None:
        """Hold the tokens (K',), or (layers, K'), of a store, in that order, and no others."""

    def reindex(self, stream: int, position_ids: torch.Tensor) -> None:
        """Give the tokens of a store other positions (3, K)."""

    def hide(self, stream: int, index: torch.Tensor, column: str = "order") -> None:
        """What is watched from now on does not see these, with the column `step` what is said."""

    def show(self, stream: int) -> None:
        """Nothing is hidden any more."""

    def keys(self, stream: int, index: torch.Tensor) -> torch.Tensor:
        """(layers, K', heads x D) of these tokens."""


@runtime_checkable
class StreamingModel(Protocol):
    """A model as sessions ask it, and settled as its checkpoint is.

    Attributes:
        static: its memory never moves and its computations are fixed: nothing is forgotten or read anew, and nothing
            but logits comes out. Else an `endless` cache is a ForgetfulCache, and `step` takes `decides`, too.
        watches_aside: what `begin_watching` begins goes on beside other forwards.
        num_deep: behind so many of the LLM's first layers something is added to video tokens.
        t_per_step: temporal positions of a step.
    """

    config: Any
    generation_config: Any
    settings: Settings
    markup: Markup
    device: torch.device
    dtype: torch.dtype
    attention: str
    static: bool
    watches_aside: bool
    num_deep: int
    t_per_step: float

    @property
    def plain(self) -> Any:
        """The torch module that it runs, which may be itself."""

    def another(self) -> Self:
        """The same weights for another thread."""

    def new_cache(self, endless: bool = False, moves: bool = True) -> SessionCache:
        """An empty cache. `endless`: tokens will go; `moves`: and the others will stand elsewhere then."""

    def embed(self, ids: Sequence[int]) -> torch.Tensor:
        """(Q,) ids -> (Q, W)."""

    def watch_video(
        self, pixel_values: torch.Tensor, grid_thw: torch.Tensor, reuse: TowerState | None = None
    ) -> torch.Tensor:
        """Pixels (patches, D) of one or more steps -> (merged tokens, W). `reuse` runs the tower's blocks, of one."""

    def begin_watching(
        self, pixel_values: torch.Tensor, grid_thw: torch.Tensor, reuse: TowerState | None = None
    ) -> VideoFeatures:
        """The same for who has other work meanwhile."""

    def step(
        self, cache: SessionCache, rows: Layout, embeds: torch.Tensor, predicts: int | range | None = -1
    ) -> torch.Tensor | None:
        """Feed Q rows; (V,) logits after one of them, (n, V) after n, or None."""

    def step_many(
        self,
        caches: Sequence[SessionCache],
        rows: Sequence[Layout],
        embeds: Sequence[torch.Tensor],
        predicts: Sequence[int | range | None] | None = None,
    ) -> list[torch.Tensor | None]:
        """`step` of n sessions in one forward."""
