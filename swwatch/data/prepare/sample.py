"""A random sample of clips that does not depend on the order in which they come."""

import hashlib
import heapq


class Sampler:
    """A uniform random sample of ids that depends on nothing but the set of ids and the seed.

    Every id has a pseudo-random rank; the sample is the `size` lowest. So it can be kept while ids stream in.
    """

    def __init__(self, size: int, seed: int):
        self.size, self.seed = size, seed
        self.heap: list[tuple[int, str]] = []  # highest rank first: rank is negated

    def offer(self, name: str) -> str | None:
        """Take an id that was not offered before; returns the id that is out now, if any."""
        rank = int.from_bytes(hashlib.blake2b(f"{self.seed}:{name}".encode(), digest_size=8).digest())
        if len(self.heap) < self.size:
            heapq.heappush(self.heap, (-rank, name))
            return None
        return heapq.heappushpop(self.heap, (-rank, name))[1]
