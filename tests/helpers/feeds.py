"""The rows of a whole sample, cut into forwards in any order that an engine could feed them in."""

import torch

from swwatch.model.cuda_graph_model import CudaGraphModel
from swwatch.rules.cursor import layout
from swwatch.rules.layout import Kind, Layout
from swwatch.rules.visibility import SAID

PROMPT_LEN = 4
Feed = tuple[Layout, torch.Tensor, int]  # rows, embeddings, index of the row that predicts


def random_feeds(
    variant: str, grids, answer_len: int, draw, seed: int = 0, width: int = 32, num_deep: int = 0
) -> list[Feed]:
    """Forwards of a whole sample with random embeddings: watched and said rows ride together where there are two
    streams, shuffled, as long as each row finds what it may see already fed, or fed with it.

    Args:
        draw: draw(low, high) -> int, both ends included.
    """
    tokens = layout(variant, PROMPT_LEN, grids, answer_len)
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(len(tokens), width * (1 + num_deep), generator=generator)
    embeds[~tokens.where(Kind.VIDEO), width:] = 0  # what goes to deeper layers, of video alone
    said = (tokens.stream == SAID).nonzero()[:, 0].tolist()
    watched = (tokens.stream != SAID).nonzero()[:, 0].tolist()
    feeds = []
    while watched or said:
        take = [watched.pop(0) for _ in range(min(draw(0, 9), len(watched)))]
        complete = int(tokens.step[watched[0]]) if watched else len(grids)  # steps that have been watched whole
        ready = sum(int(tokens.sees[i]) < complete for i in said)
        take += [said.pop(0) for _ in range(min(draw(0, 3), ready))]
        if take:
            index = torch.tensor(take)
            if said or ready:
                index = index[torch.randperm(len(index), generator=generator)]
            feeds.append((tokens[index], embeds[index], draw(-1, len(take) - 1)))
    return feeds


def logits_of(model, feeds: list[Feed]) -> torch.Tensor:
    """(feeds, V) of one session."""
    cache = model.new_cache()
    return torch.stack([model.step(cache, *feed) for feed in feeds])


def small(model, **options) -> CudaGraphModel:
    """A fast model with little room and many buckets."""
    return CudaGraphModel(model, **{"max_watched": 160, "max_said": 60, "first_length": 8} | options)


class Arrived:
    """A source whose steps have all arrived."""

    def __init__(self, steps):
        self.steps = list(steps)

    @property
    def ended(self) -> bool:
        return not self.steps

    def poll(self):
        return self.steps.pop(0) if self.steps else None

    def orders(self):
        return []
