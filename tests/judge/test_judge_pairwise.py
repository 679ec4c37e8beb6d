"""Win rates worked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swwatch.errors import UserError
from swwatch.evaluate.judge.settings import JudgeSettings
from swwatch.judge.asking import Verdict
from swwatch.judge.pairwise import ORDERS, decided, questions, summarize
from swwatch.judge.rubric import FIRST, SECOND, TIE, load_rubric

RUBRIC = load_rubric(JudgeSettings.rubric)


def clips(number):
    return {str(n): (f"a{n}", f"b{n}", "ref") for n in range(number)}


def verdicts(*pairs):
    return {(str(n), ORDERS[i]): Verdict(pair[i], "why") for n, pair in enumerate(pairs) for i in (0, 1)}


def test_both_orders_are_asked_and_captions_change_places():
    questions_put = questions(RUBRIC, RUBRIC.get("fluency"), clips(1))
    assert list(questions_put) == [("0", "a_first"), ("0", "b_first")]
    texts = [messages[-1]["content"] for messages in questions_put.values()]
    assert [text.index("a0") < text.index("b0") for text in texts] == [True, False]


def test_win_rate_and_position_bias_by_hand():
    # clip 0: A in both orders; 1: B in both; 2: whoever is first; 3: two ties; 4: A, then a tie
    given = verdicts((FIRST, SECOND), (SECOND, FIRST), (FIRST, FIRST), (TIE, TIE), (FIRST, TIE))
    got = summarize(clips(5), given)
    assert [got["per_clip"][str(n)]["score"] for n in range(5)] == [1, 0, 0.5, 0.5, 0.75]
    assert got["win_rate"] == pytest.approx(2.75 / 5)
    assert (got["num_won"], got["num_tied"], got["num_lost"], got["num_judged"]) == (2, 2, 1, 5)
    # first-shown: clip 0 1 of 2, 1 1 of 2, 2 2 of 2, 3 1 of 2 (ties), 4 1.5 of 2
    assert got["position_bias"] == {
        "num_clips": 5,
        "first_in_both": 1 / 5,
        "second_in_both": 0,
        "first_share": pytest.approx(6.5 / 10),
    }
    assert got["win_rate_by_order"] == {"a_first": pytest.approx(3.5 / 5), "b_first": pytest.approx(2 / 5)}
    assert got["ci95"][0] < got["win_rate"] < got["ci95"][1]


def test_a_judge_that_always_takes_the_first_gives_no_wins_and_full_bias():
    got = summarize(clips(4), verdicts(*[(FIRST, FIRST)] * 4))
    assert got["win_rate"] == 0.5 and got["num_tied"] == 4
    assert got["position_bias"]["first_in_both"] == got["position_bias"]["first_share"] == 1


def test_empty_and_equal_captions_are_decided_without_asking():
    assert [decided(*pair) for pair in [("x", "x "), ("", "x"), ("x", " \n"), ("", ""), ("x", "y")]] == [
        TIE,
        "b",
        "a",
        TIE,
        None,
    ]
    told = {"same": ("x", "x", ""), "b": ("", "y", ""), "asked": ("x", "y", "")}
    assert {key for key, _ in questions(RUBRIC, RUBRIC.get("fluency"), told)} == {"asked"}
    got = summarize(told, {("asked", order): Verdict(FIRST, "") for order in ORDERS})
    assert got["num_not_asked"] == 2 and got["position_bias"]["num_clips"] == 1
    assert [pair["score"] for pair in got["per_clip"].values()] == [0.5, 0, 0.5]


def test_a_clip_with_a_failed_order_is_left_out_and_counted():
    given = verdicts((FIRST, SECOND), (SECOND, FIRST)) | {("1", "b_first"): Verdict(None, "no JSON")}
    got = summarize(clips(2), given)
    assert (got["win_rate"], got["num_judged"], got["failed"], got["why_failed"]) == (1, 1, ["1"], {"1": "no JSON"})
    assert got["position_bias"]["num_clips"] == 1
    with pytest.raises(UserError, match="no JSON"):
        summarize(clips(1), {("0", order): Verdict(None, "no JSON") for order in ORDERS})


WORDS = st.sampled_from([FIRST, SECOND, TIE])


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=8))
def test_swapping_the_runs_turns_the_win_rate_round_and_keeps_the_bias(pairs):
    ours = summarize(clips(len(pairs)), verdicts(*pairs))
    theirs = summarize(
        {key: (b, a, r) for key, (a, b, r) in clips(len(pairs)).items()}, verdicts(*[(b, a) for a, b in pairs])
    )
    assert ours["win_rate"] + theirs["win_rate"] == pytest.approx(1)
    assert ours["num_won"] == theirs["num_lost"] and ours["position_bias"] == theirs["position_bias"]
