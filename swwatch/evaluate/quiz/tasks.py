"""The benchmarks: ONE table (TASKS, at the end) of what tells them apart."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from swwatch.errors import UserError
from swwatch.evaluate.quiz import online, recorded
from swwatch.evaluate.quiz.items import Item
from swwatch.evaluate.quiz.wording import Wording

ALL = "all"


@dataclass(frozen=True)
class Task:
    """A row of the table.

    Attributes:
        read: annotation file or folder -> items.
        beginning: of the answer, which the model is given.
        context: what choices are tokenized behind: ": " where a space comes before them, else a line end.
        mean: how accuracies of groups become one: "questions" (every question counts the same), "groups" (every group
            does) or "modes" (every mode does, and in it every group).
        modes: mode -> its groups.
        max_frames: of longer videos so many are taken of the grid, evenly spread.
    """

    name: str
    read: Callable[..., list[Item]]
    mean: str = "questions"
    beginning: str = "Answer:"
    context: str = ": "
    modes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    max_frames: int = 480
    with_subtitles: bool = False

    def items(self, data: Path, wording: Wording, subtitles: Path | None = None) -> list[Item]:
        """All questions, in the order of the file.

        Raises:
            UserError: the file is none of this task, or a question stands there twice.
        """
        if subtitles is not None and not self.with_subtitles:
            raise UserError(f"{self.name} has no subtitles: leave --subtitles out")
        if subtitles is not None and not subtitles.is_dir():
            raise UserError(f"there is no folder {subtitles}: --subtitles wants that of the subtitle files")
        items = self.read(data, wording, subtitles) if self.with_subtitles else self.read(data, wording)
        twice = [key for key, times in Counter(item.key for item in items).items() if times > 1]
        if twice:
            raise UserError(f"{data}: the question {twice[0]} stands there more than once")
        return items


def get(name: str) -> Task:
    """The table's row of this name.

    Raises:
        UserError: no such task.
    """
    if name not in TASKS:
        raise UserError(f"no task {name!r}: choose one of {', '.join(TASKS)}")
    return TASKS[name]


# Frame limit, beginnings and where a space comes first: LiveCC's evaluation (arXiv 2504.16030). It has no
# StreamingBench and no LongVideoBench, which are asked as the others are.
TASKS = {
    task.name: task
    for task in (
        Task("videomme", recorded.videomme, with_subtitles=True),
        Task("mvbench", recorded.mvbench, mean="groups"),
        Task("longvideobench", recorded.longvideobench, with_subtitles=True),
        Task(
            "ovobench",
            online.ovobench,
            mean="modes",
            beginning="The answer is:\n",
            context="\n",
            modes=tuple(online.OVO_MODES.items()),
        ),
        Task("streamingbench", online.streamingbench),
        Task("livesports", recorded.livesports),
    )
}
