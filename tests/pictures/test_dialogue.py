"""Pictures of dialogues of systems that think say what their samples and sessions hold."""

import pytest
import torch

from swwatch.errors import UserError
from swwatch.pictures.command import main
from swwatch.pictures.dialogue import readings
from swwatch.rules.layout import Kind
from swwatch.rules.systems import SYSTEMS

THINKING = [name for name, system in SYSTEMS.items() if system.thinks]


def stretches(tokens) -> list[tuple[str, int]]:
    """Kinds that follow one another, and the turn of each, but for what is around."""
    found = [(str(kind), int(turn)) for kind, turn in zip(tokens.kind, tokens.step, strict=True)]
    found = [one for one in found if one[0] not in (Kind.AROUND, Kind.PROMPT, Kind.NOTE, Kind.HEADER)]
    return [one for i, one in enumerate(found) if i == 0 or one != found[i - 1]]


def test_vst_reads_its_thoughts_and_the_newest_segment_anew_to_think_and_to_answer():
    read = readings("vst", 4, (2, 2))
    assert [stretches(tokens) for tokens in read] == [
        [("video", 0), ("thought", 0)],
        [("thought", 0), ("video", 1), ("thought", 1)],
        [("thought", 0), ("video", 1), ("answer", 2)],
        [("thought", 0), ("thought", 1), ("video", 3), ("thought", 3)],
    ]
    for tokens in read:
        assert tokens.is_causal and int(tokens.position_ids.min()) == 0


def test_tww_has_two_streams_of_which_one_does_not_see_the_other():
    (tokens,) = readings("tww", 4, (2, 2))
    turns = [("video", 0), ("thought", 0), ("video", 1), ("thought", 1), ("answer", 2), ("video", 3), ("thought", 3)]
    assert stretches(tokens) == turns
    said, seen = tokens.stream == 1, tokens.visible()
    assert not seen[~said][:, said].any() and seen[said][:, said].equal(torch.ones(said.sum(), said.sum()).tril() > 0)
    assert tokens.position_ids[:, said].equal(torch.arange(int(said.sum())).expand(3, -1))


@pytest.mark.parametrize("variant", THINKING)
def test_a_dialogue_is_drawn_and_told(variant, tmp_path, capsys):
    assert main(["--variant", variant, "--steps", "2", "--grid", "1x1", "--out", str(tmp_path)]) == 0
    assert (tmp_path / f"{variant}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert main(["--variant", variant, "--steps", "2", "--grid", "1x1", "--text"]) == 0
    printed = capsys.readouterr().out
    read = readings(variant, 2, (1, 1))
    assert printed.count("sees\n") == len(read) == printed.count(f"of {len(read)}\n")
    with pytest.raises(UserError, match="--steps 2 or more"):
        main(["--variant", variant, "--steps", "1"])
    with pytest.raises(UserError, match="choose fewer, or --text"):
        main(["--variant", variant, "--steps", "60"])
    for flags in (["--seconds", "20"], ["--eviction", "append"], ["--positions", "group"]):
        with pytest.raises(UserError, match="drawn as a dialogue"):
            main(["--variant", variant, *flags])
