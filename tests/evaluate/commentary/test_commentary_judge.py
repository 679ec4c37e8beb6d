"""Two commentators before a scripted judge: votes in both orders, shares, rates, silence and what is written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swwatch.errors import UserError
from swwatch.evaluate.commentary import match
from swwatch.evaluate.commentary.match import NOBODY, A, B, Pair, PairOutcome
from swwatch.evaluate.commentary.texts import LONGEST_TEXT
from swwatch.judge.asking import Verdict
from swwatch.judge.rubric import FIRST, SECOND, TIE
from tests.helpers.judge_server import better, error, tagged
from tests.helpers.toy_game import read_rows, words_between, write_rows


def pair(key="p", a="one", b="two", video="v"):
    return Pair(key, video, a, b, "reference", {})


def test_votes_flip_when_b_is_shown_first():
    said = {("p", "a_first"): Verdict(FIRST, ""), ("p", "b_first"): Verdict(SECOND, "")}
    (outcome,), failed = match.outcomes([pair()], said)
    assert (outcome.ab, outcome.ba, outcome.winner, outcome.votes) == (A, A, A, {A: 2, B: 0}) and not failed
    said = {("p", "a_first"): Verdict(SECOND, ""), ("p", "b_first"): Verdict(FIRST, "")}
    (outcome,), _ = match.outcomes([pair()], said)
    assert (outcome.ab, outcome.ba, outcome.winner) == (B, B, B)


@given(st.lists(st.tuples(st.sampled_from([FIRST, SECOND]), st.sampled_from([FIRST, SECOND])), min_size=1, max_size=9))
def test_shares_of_the_two_sides_make_one_and_an_exchange_of_sides_exchanges_them(votes):
    pairs = [pair(str(i)) for i in range(len(votes))]
    orders = ("a_first", "b_first")
    said = {
        (str(i), order): Verdict(v, "") for i, two in enumerate(votes) for order, v in zip(orders, two, strict=True)
    }
    swapped = {(key, orders[1 - orders.index(order)]): verdict for (key, order), verdict in said.items()}
    share = match.win_share(match.outcomes(pairs, said)[0])
    assert share + match.win_share(match.outcomes(pairs, swapped)[0]) == pytest.approx(1)


def test_ties_are_losses_of_a_rate_for_either_side():
    found = [PairOutcome(pair("1"), A, TIE), PairOutcome(pair("2"), B, A), PairOutcome(pair("3"), TIE, TIE)]
    assert match.win_rate(found) == 2 / 6 and match.win_rate(found, B) == 1 / 6
    assert [outcome.winner for outcome in found] == [A, TIE, TIE]


@pytest.mark.parametrize("silence", [None, "", "...", " ... \n"])
def test_silence_loses_without_a_judge_and_leaves_the_other_side_its_words(silence):
    pairs = [pair("1", a=silence), pair("2", b=silence), pair("3", a=silence, b=""), pair("4")]
    from swwatch.evaluate.judge.settings import JudgeSettings
    from swwatch.judge.rubric import load_rubric

    rubric = load_rubric(JudgeSettings.rubric)
    questions = match.questions(rubric, rubric.get("commentary"), pairs, ties=True)
    assert list(questions) == [("4", "a_first"), ("4", "b_first")]
    found, _ = match.outcomes(pairs, {key: Verdict(FIRST, "") for key in questions})
    assert [(o.ab, o.ba) for o in found] == [(B, B), (A, A), (NOBODY, NOBODY), (A, B)]
    report = match.summarize(found, {}, ties=True)
    assert report["num_silent"] == {"A": 2, "B": 2} and report["num_both_silent"] == 1
    assert report["num_missing"] == {"A": 2 * (silence is None), "B": 1 * (silence is None)}
    assert report["win_rate"] == 3 / 8 and match.win_share(found) == 0.5


@pytest.fixture
def set_of_games(tmp_path):
    """Two games of 3 and 1 segments, what A and B said about them, and B's second game missing."""
    long, short = words_between(1000, 1300), words_between(1000, 1100)
    data = write_rows(tmp_path / "eval.jsonl", [{"video": "NBA/a", "content": long}, {"video": "b", "content": short}])

    def said(name, videos):
        return [
            {
                "video": video,
                "chunk_start": 1000,
                "chunk_end": last,
                "items": [
                    {"response": f"{name}{end} ...", "start_time": end - 1, "end_time": end}
                    for end in range(1010, last + 1, 10)
                ],
            }
            for video, last in videos
        ]

    run = write_rows(tmp_path / "ours.jsonl", said("A", [("a", 1300), ("b", 1100)]))
    return run, write_rows(tmp_path / "theirs.jsonl", said("B", [("a", 1200)])), data


def test_a_judge_that_always_prefers_the_first_gives_half(judge, server, set_of_games, tmp_path):
    server.brain = lambda request: better("first")
    run, other, data = set_of_games
    both = write_rows(tmp_path / "both.jsonl", read_rows(run))
    assert judge("inf-streams", run, [both], data) == 0
    report = json.loads((tmp_path / "ours_vs_both_summary.json").read_text())
    assert report["win_share"] == 0.5 and report["first_share"] == 1.0
    assert report["num_judged"] == 4 and report["votes"] == {"A": 4, "B": 4}
    assert {row["winner"] for row in read_rows(tmp_path / "ours_vs_both_scores.jsonl")} == {"equal"}


def test_segments_are_judged_in_both_orders_and_written_as_the_benchmark_does(judge, server, set_of_games, tmp_path):
    run, other, data = set_of_games

    def prefers_late_seconds_of_b(request):
        first = tagged(request, "first")
        return better("first" if ("B1110" in first or first.startswith("A10")) else "second")

    server.brain = prefers_late_seconds_of_b
    assert judge("inf-streams", run, [other], data) == 0
    rows = read_rows(tmp_path / "ours_vs_theirs_scores.jsonl")
    assert [(row["video"], row["start"], row["end"], row["winner"]) for row in rows] == [
        ("a", 1000, 1100, "A"),
        ("a", 1100, 1200, "B"),
        ("a", 1200, 1300, "A"),  # B said nothing any more
        ("b", 1000, 1100, "A"),  # B has not the game
    ]
    assert rows[0] == {
        "video": "a",
        "title": "",
        "start": 1000,
        "end": 1100,
        "winner": "A",
        "votes": {"A": 2, "B": 0},
        "judge": {"model": "judge", "vote_ab": "A", "vote_ba": "A"},
    }
    report = json.loads((tmp_path / "ours_vs_theirs_summary.json").read_text())
    assert report["win_share"] == 6 / 8 and len(server.requests) == 4 and report["criterion"] == "commentary"
    assert {video: part["win_share"] for video, part in report["per_video"].items()} == {"a": 4 / 6, "b": 1.0}
    assert report["num_silent"] == {"A": 0, "B": 2} and report["num_missing"] == {"A": 0, "B": 1}
    shown = {tagged(request, "reference") for request in server.requests}
    assert (
        all(text.count("\n") == 199 for text in shown) and "tie" not in server.requests[0]["messages"][-1]["content"]
    )
    assert tagged(server.requests[0], "first").split()[0] in ("A1010", "A1110", "B1010", "B1110")
    assert not any(" ..." in message["content"] for request in server.requests for message in request["messages"])
    table = (tmp_path / "ours_commentary.md").read_text()
    assert f"| theirs {'| - ' * 10}|" in table, "files of other programs do not tell how they were made"
    assert "| ours | theirs | 75.00 % |" in table and "do not compare across papers" in table


def test_a_tie_is_no_answer_where_one_must_be_chosen(judge, server, set_of_games, tmp_path):
    server.plan = [better("tie")]
    server.brain = lambda request: better("first")
    run, other, data = set_of_games
    assert judge("inf-streams", run, [other], data) == 0
    asked = [request["messages"][-1]["content"] for request in server.requests]
    assert len(asked) == 5 and sum("is none of first, second" in question for question in asked) == 1


def test_unanswered_pairs_are_left_out_told_and_asked_again(judge, server, set_of_games, tmp_path, capsys):
    server.plan = [error(500)]
    server.brain = lambda request: better("first")
    run, other, data = set_of_games
    assert judge("inf-streams", run, [other], data, "--concurrency", "1") == 1
    summary = tmp_path / "ours_vs_theirs_summary.json"
    assert json.loads(summary.read_text())["num_failed"] == 1 and "1 pairs got no answer" in capsys.readouterr().err
    count = len(server.requests)
    assert judge("inf-streams", run, [other], data) == 0
    assert len(server.requests) == count + 1  # the others were kept
    assert json.loads(summary.read_text())["num_failed"] == 0


def test_long_texts_are_cut(judge, server, tmp_path):
    server.brain = lambda request: better("first")
    event = {"video": "v", "video_id": "v", "event_id": 0, "begin": 0, "end": 11, "event_asr_text": "r" * 9000}
    data = write_rows(tmp_path / "live.jsonl", [event])
    a, b = (write_rows(tmp_path / f"{n}.jsonl", [{"video_id": "v", "event_id": 0, "pred": n * 9000}]) for n in "ab")
    assert judge("livesports-cc", a, [b], data) == 0
    for request in server.requests:
        assert {len(tagged(request, tag)) for tag in ("first", "second", "reference")} == {LONGEST_TEXT}


def test_events_count_ties_as_losses_and_missing_predictions_lose(judge, server, tmp_path):
    events = [
        {"video": "v", "video_id": "v", "event_id": i, "begin": 0, "end": 11, "event_asr_text": "r"} for i in range(4)
    ]
    data = write_rows(tmp_path / "live.jsonl", events)
    rows = [{"video_id": "v", "event_id": i, "pred": f"a{i}..."} for i in range(4)]
    a = write_rows(tmp_path / "a.jsonl", rows)
    b = write_rows(tmp_path / "b.jsonl", [{"video_id": "v", "event_id": i, "pred": f"b{i}..."} for i in range(2)])
    c = write_rows(tmp_path / "c.jsonl", [{"video_id": "v", "event_id": i, "pred": f"c{i}..."} for i in range(4)])

    def brain(request):
        first = tagged(request, "first")
        return better("tie" if first == "a0..." else "first" if first.startswith("a") else "second")

    server.brain = brain
    assert judge("livesports-cc", a, [b, c], data) == 0
    report = json.loads((tmp_path / "a_vs_b_summary.json").read_text())
    assert report["win_rate"] == 7 / 8 and report["win_rate_of_b"] == 0
    assert report["num_missing"] == {"A": 0, "B": 2} and report["num_tied_orders"] == 1
    assert read_rows(tmp_path / "a_vs_b_scores.jsonl")[0] == {
        "video_event_id": "v_0",
        "ab_winner": "tie",
        "ba_winner": "A",
    }
    assert "| a | b | 87.50 % | - | 0.00 % | 4 | 0 | 2 | 0 |" in (tmp_path / "a_commentary.md").read_text()
    assert "| a | c | 87.50 % |" in (tmp_path / "a_commentary.md").read_text()


@pytest.mark.parametrize(("flags", "criterion"), [([], "alignment"), (["--criterion", "commentary"], "commentary")])
def test_events_are_judged_by_agreement_with_the_human_unless_told_otherwise(
    judge, server, tmp_path, flags, criterion
):
    from swwatch.evaluate.judge.settings import JudgeSettings
    from swwatch.judge.rubric import load_rubric

    server.brain = lambda request: better("first")
    event = {"video": "v", "video_id": "v", "event_id": 0, "begin": 0, "end": 11, "event_asr_text": "r"}
    data = write_rows(tmp_path / "live.jsonl", [event])
    a, b = (write_rows(tmp_path / f"{n}.jsonl", [{"video_id": "v", "event_id": 0, "pred": n}]) for n in "ab")
    assert judge("livesports-cc", a, [b], data, *flags) == 0
    about = load_rubric(JudgeSettings.rubric).get(criterion).about
    assert all(about in request["messages"][-1]["content"] for request in server.requests)
    assert json.loads((tmp_path / "a_vs_b_summary.json").read_text())["criterion"] == criterion


def test_one_video_alone_has_no_interval():
    votes = [("v", A), ("v", B), ("w", A)]
    found = [PairOutcome(pair(str(i), video=video), side, side) for i, (video, side) in enumerate(votes)]
    assert match.summarize(found[:2], {}, ties=True)["ci95"] is None
    assert match.summarize(found, {}, ties=True)["ci95"] == [0.5, 1.0]  # videos of 1/2 and 1: means from 1/2 to 1


def test_others_of_one_name_are_told_apart_by_their_folders(judge, server, set_of_games, tmp_path):
    server.brain = lambda request: better("first")
    run, other, data = set_of_games
    others = [write_rows(tmp_path / folder / "out.jsonl", read_rows(other)) for folder in ("x", "y")]
    assert judge("inf-streams", run, others, data) == 0
    assert {path.name for path in tmp_path.glob("*_summary.json")} == {
        "ours_vs_x-out_summary.json",
        "ours_vs_y-out_summary.json",
    }
    assert "| ours | y-out |" in (tmp_path / "ours_commentary.md").read_text()


def test_a_run_about_other_videos_is_a_mistake_and_no_defeat(judge, server, set_of_games, tmp_path):
    run, _, data = set_of_games
    foreign = write_rows(tmp_path / "c.jsonl", [row | {"video": f"other-{row['video']}"} for row in read_rows(run)])
    with pytest.raises(UserError, match="c.jsonl says nothing about what .*eval.jsonl holds, such as a:1000-1100"):
        judge("inf-streams", run, [foreign], data)
    assert not server.requests


def test_mistakes_are_told_before_anything_is_asked(judge, server, set_of_games):
    run, other, data = set_of_games
    with pytest.raises(UserError, match="no segment of 900 words"):
        judge("inf-streams", run, [other], data, "--least-words", "900")
    with pytest.raises(UserError, match="--segments, --begin and --least-words go with"):
        judge("livesports-cc", run, [other], data, "--segments", data)
    with pytest.raises(UserError, match="--segments, --begin and --least-words go with"):
        judge("livesports-cc", run, [other], data, "--begin", "20")
    with pytest.raises(UserError, match="against itself"):
        judge("inf-streams", run, [run], data)
    assert not server.requests
