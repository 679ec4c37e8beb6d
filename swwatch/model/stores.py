"""Keys and values of one layer, stream by stream in one tensor with room for more.

So a token is added without a copy of those before it, and streams that follow one another are read as they lie.
Legend: K tokens of a stream, Q new ones, D width of a head.
"""

from collections.abc import Sequence

import torch

ROOM = 8  # of so many tokens, room for one more
LINE = 64  # slots come in whole lines, which begin where memory is read fastest


def slots_for(tokens: int) -> int:
    """Tokens that there is room for, where a tensor was made for so many."""
    return -(-(tokens + tokens // ROOM) // LINE) * LINE


class Stores(dict[int, torch.Tensor]):
    """Stream -> its tokens (..., K, D). Parts that are put here by others lie elsewhere until the next token comes.

    `append` writes into the room, over what was cut off and where parts make way for those before them: who is to
    see it all as it is takes a `snapshot`.
    """

    def __init__(self, parts=()):
        super().__init__(parts)
        self._room: torch.Tensor | None = None  # in which all parts lie from the beginning on, in order of streams

    def __setitem__(self, stream: int, part: torch.Tensor) -> None:
        super().__setitem__(stream, part)
        self._room = None

    def __delitem__(self, stream: int) -> None:
        super().__delitem__(stream)
        self._room = None

    def append(self, stream: int, new: torch.Tensor) -> None:
        """Add tokens (..., Q, D) to a stream. Where memory fails nothing has changed."""
        lengths = {key: part.shape[-2] for key, part in self.items()}
        old = lengths.get(stream, 0)
        lengths[stream] = old + new.shape[-2]
        total, buffer = sum(lengths.values()), self._room
        if buffer is None or buffer.shape[-2] < total or buffer.is_inference() != torch.is_inference_mode_enabled():
            buffer, moved = new.new_empty((*new.shape[:-2], slots_for(total), new.shape[-1])), dict(self)
        else:
            moved = {key: part.clone() for key, part in self.items() if key > stream}  # they make way
        begin = 0
        for key in sorted(lengths):
            part = buffer[..., begin : begin + lengths[key], :]
            if key in moved:
                part[..., : moved[key].shape[-2], :] = moved[key]
            if key == stream:
                part[..., old:, :] = new
            super().__setitem__(key, part)
            begin += lengths[key]
        self._room = buffer

    def read(self, streams: Sequence[int]) -> torch.Tensor:
        """(..., K, D) of some streams, rising, one behind the other; those that are not here are left out."""
        here = [stream for stream in streams if stream in self]
        if len(here) == 1:
            return self[here[0]]
        if self._room is not None and here == sorted(self)[: len(here)]:
            return self._room[..., : sum(self[stream].shape[-2] for stream in here), :]
        return torch.cat([self[stream] for stream in here], dim=-2)

    def snapshot(self) -> dict[int, torch.Tensor]:
        """All parts, which nothing that happens here will change."""
        self._room = None
        return dict(self)

    @property
    def held(self) -> dict[int, int]:
        """Address -> bytes of all memory that belongs to it, in use or not."""
        storages = [part.untyped_storage() for part in self.values()]
        return {storage.data_ptr(): storage.nbytes() for storage in storages}
