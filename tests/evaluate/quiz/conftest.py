"""Fixtures of this folder."""

import pytest

from swwatch.toy.quiz import write_quiz


@pytest.fixture(scope="session")
def quiz(tmp_path_factory):
    """Benchmark -> annotation file or folder, of three toy clips."""
    return write_quiz(tmp_path_factory.mktemp("quiz") / "data", videos=3)


@pytest.fixture(scope="session")
def videos_of(quiz):
    """videos_of(benchmark) -> the folder of its videos."""

    def folder(name: str):
        if quiz[name].is_file():
            return quiz[name].parent
        return quiz[name].parent / "video" if name == "mvbench" else quiz[name]

    return folder
