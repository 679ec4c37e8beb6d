"""Live commentary on sports: Inf-Streams-Eval (hours of a game) and LiveSports-3K CC (short events)."""

import os

from swwatch.config import choose_kind, read_settings
from swwatch.evaluate.commentary.settings import CommentaryCompareSettings, GenerateSettings
from swwatch.evaluate.judge.settings import CONFIG as JUDGE_CONFIG
from swwatch.evaluate.rows import read_rows
from swwatch.launch.ranks import join
from swwatch.launch.signals import stops_at_once

KINDS = {
    "generate": "let a model that streams in turns comment",
    "judge": "let a language model compare two such runs, or a run with another model's file in the same form",
}


def main(argv: list[str]) -> int:
    kind = choose_kind(argv, program="swwatch commentary", about=__doc__, kinds=KINDS)
    return (generate if kind == "generate" else judge)(argv[1:])


def generate(argv: list[str]) -> int:
    about = GenerateSettings.__doc__
    settings = read_settings(GenerateSettings, argv, program="swwatch commentary generate", about=about)
    settings.check_model(settings.model)
    settings.check_turns(settings.model, settings.system)

    with stops_at_once(), join(os.environ) as ranks:
        read_rows(settings.data)  # a mistake is told before torch is imported

        from swwatch.evaluate.commentary.measure import comment_all

        comment_all(settings, ranks)
    return 0


def judge(argv: list[str]) -> int:
    about = CommentaryCompareSettings.__doc__
    program = "swwatch commentary judge"
    settings = read_settings(CommentaryCompareSettings, argv, program=program, about=about, yaml_path=JUDGE_CONFIG)

    from swwatch.evaluate.commentary.judging import compare_with_all

    return compare_with_all(settings)
