"""One evaluation by one process or several: who writes where, and when all of it is there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from swwatch.evaluate.results import Part, Results, part_of
from swwatch.launch.ranks import Alone


@contextmanager
def shared(
    path: Path,
    facts: dict,
    keys: list[str],
    work: Callable[[Part], None],
    ranks: Alone,
    *,
    restart: bool = False,
    label: str,
    noun: str = "clips",
) -> Iterator[Results | None]:
    """Do the work of this rank; at rank 0 the block sees the complete results, at others None.

    Args:
        path, facts, keys, restart: as for Results.
        work: writes what is not done yet to the part it is given, raising the shared counters "ended" and "skipped".
        label, noun: of the results, for the line that tells what there is to do.
    """
    if ranks.rank:
        with Part(part_of(path, ranks.rank), ranks.hear()) as part:
            work(part)
        ranks.leave()
        yield None
        return
    with Results(path, facts, keys, restart=restart) as results:
        num_before = len(results.done)
        print(f"{label}: {len(keys)} {noun}, {num_before} of them done before -> {path}")
        if ranks.size == 1:
            work(results)
        else:
            ranks.tell(sorted(results.done))
            with Part(part_of(path, 0), results.done) as part:
                work(part)
            ranks.wait_for_all()
        results.complete(num_before + ranks.add("ended", 0) - ranks.add("skipped", 0))
        yield results
