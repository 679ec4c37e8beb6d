"""Flash-VStream: the past as weighted clusters of small patches, and the heaviest of them also as they really were.

Source: arXiv 2506.23825. Context: 60 patches whose features are means of 2 x 2, by weighted k-means (at most 10
iterations); a cluster's weight is how many patches it stands for, its time their mean, and clusters are in the order
of time. Detail: the 30 heaviest clusters show the real patch nearest to them, whole. Details come before context. What
merges are features before the LLM, for clusters have to be read: all that is left is read anew at every step or turn.
Chosen here: k-means begins from all clusters and the new patch but the later of the two neighbours in time that are
most alike; of real patches those are held that are nearest to some cluster (the paper's grow without bound in host
memory); patches of two sizes are never one cluster, and where no two neighbours have one size the oldest goes.
Features are those behind the merger, where the paper has those before it. The newest patch is in view whole, behind
the memory, and joins it with the next. Positions are those of a stream that begins with the memory, where the paper
has times and shifts the context: so they stay small. Words have windows, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from swwatch.policies.memory.policy import Sliding
from swwatch.policies.table import option

if TYPE_CHECKING:
    import torch

ITERATIONS = 10


@dataclass(frozen=True)
class VStream(Sliding):
    """A memory of clusters: `patches` of the context; `detail` of them are also shown as they really were."""

    name: ClassVar[str] = "vstream"
    anew: ClassVar[bool] = True
    every_turn: ClassVar[bool] = True
    windows: ClassVar[tuple[str, ...]] = ("turns_s", "text_sink", "text_window")
    vision_s: ClassVar[float] = 0.0
    patches: int = option(60, least=1)
    detail: int = option(30, least=0)
    turns_s: float | None = option(16.0, least=0)
    text_sink: int | None = option(512, least=0)
    text_window: int | None = option(512, least=1)

    def memory(self) -> "Memory":
        return Memory(self.patches, self.detail)


@dataclass
class Cluster:
    """Patches that were alike.

    Attributes:
        mean: (R C, W) of their features, made smaller, R x C.
        grid: rows and columns of a real one.
        weight: how many they are; time: their mean number.
        real: (rows columns, W) the nearest real one; near: the same made smaller.
    """

    mean: "torch.Tensor"
    grid: tuple[int, int]
    weight: int
    time: float
    real: "torch.Tensor"
    near: "torch.Tensor"


@dataclass
class Memory:
    """The clusters of one stream."""

    patches: int
    detail: int
    count: int = 0
    clusters: list[Cluster] = field(default_factory=list)

    def add(self, features: "torch.Tensor", rows: int, columns: int) -> None:
        """A patch (rows columns, W), whole, that came after all others."""
        features = features.detach()
        small = smaller(features, rows, columns)
        self.clusters.append(Cluster(small, (rows, columns), 1, float(self.count), features, small))
        self.count += 1
        if len(self.clusters) > self.patches:
            self.clusters = merged(self.clusters)

    def shown(self) -> list[tuple["torch.Tensor", int, int]]:
        """Patches to be read, in order: features (rows columns, W), rows and columns."""
        heavy = sorted(range(len(self.clusters)), key=lambda i: -self.clusters[i].weight)[: self.detail]
        details = [(self.clusters[i].real, *self.clusters[i].grid) for i in sorted(heavy)]
        return details + [(x.mean, *((side + 1) // 2 for side in x.grid)) for x in self.clusters]

    def state(self) -> dict[str, Any]:
        """In tuples of tensors and numbers, for `load_state`."""
        return {"count": self.count, "clusters": [tuple(vars(cluster).values()) for cluster in self.clusters]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Hold what another one held."""
        self.count, self.clusters = state["count"], [Cluster(*values) for values in state["clusters"]]


def smaller(features: "torch.Tensor", rows: int, columns: int) -> "torch.Tensor":
    """Means of 2 x 2 tokens, at odd ends of those that there are: (rows columns, W) -> (R C, W)."""
    from torch.nn.functional import avg_pool2d  # here, so that a table costs no import of torch

    picture = features.view(rows, columns, -1).permute(2, 0, 1)[None]
    return avg_pool2d(picture, 2, ceil_mode=True, count_include_pad=False)[0].flatten(1).T


def merged(clusters: Sequence[Cluster]) -> list[Cluster]:
    """Weighted k-means of clusters, in the order of time, into one less at least."""
    import torch  # here, as above

    neighbours = [(i, *pair) for i, pair in enumerate(pairwise(clusters), start=1) if pair[0].grid == pair[1].grid]
    if not neighbours:
        return list(clusters[1:])
    gone = min((_distance(one.mean, other.mean), i) for i, one, other in neighbours)[1]
    alike = [i for i, cluster in enumerate(clusters) if cluster.grid == clusters[gone].grid]
    small = torch.stack([clusters[i].mean.float().flatten() for i in alike])  # (N, R C W)
    weight = small.new_tensor([clusters[i].weight for i in alike])[:, None]
    means, nearest = small[[i != gone for i in alike]], None
    for _ in range(ITERATIONS):
        before, nearest = nearest, torch.cdist(small, means, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        if before is not None and torch.equal(nearest, before):
            break
        total = torch.zeros_like(means[:, :1]).index_add(0, nearest, weight)
        sums = torch.zeros_like(means).index_add(0, nearest, small * weight)
        means = torch.where(total > 0, sums / total.clamp(min=1), means)
    groups: dict[int, list[Cluster]] = {}
    for i, mean in zip(alike, nearest.tolist(), strict=True):
        groups.setdefault(mean, []).append(clusters[i])
    others = [cluster for i, cluster in enumerate(clusters) if i not in alike]
    return sorted([*others, *map(_joined, groups.values())], key=lambda cluster: cluster.time)


def _joined(group: Sequence[Cluster]) -> Cluster:
    if len(group) == 1:
        return group[0]
    weight = sum(cluster.weight for cluster in group)
    mean = sum(cluster.mean.float() * (cluster.weight / weight) for cluster in group).to(group[0].mean.dtype)
    time = sum(cluster.time * cluster.weight for cluster in group) / weight
    best = min(group, key=lambda cluster: _distance(cluster.near, mean))
    return Cluster(mean, best.grid, weight, time, best.real, best.near)


def _distance(one: "torch.Tensor", other: "torch.Tensor") -> float:
    return float((one.float() - other.float()).square().sum())
