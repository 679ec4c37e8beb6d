"""Every number stands in the right cell, with its unit, and the paper's are marked."""

from swwatch.evaluate.report.gather import gather
from swwatch.evaluate.report.tables import all_tables, flatten, scores, sentence

CORPUS = {"CIDEr": 0.5, "BLEU-1": 0.25, "METEOR": {"value": None, "why": "no java"}}


def tables(*paths):
    return {table.key: table for table in all_tables(gather(list(paths)))}


def row(table, *names):
    return next(row for row in table.rows if row[: len(names)] == list(names))


def test_scores_stand_beside_the_papers_of_the_same_variant(runs):
    runs.judged()
    table = tables(runs.make(), runs.make("other", variant="gap"))["scores"]
    at = {name: i for i, name in enumerate(table.columns)}
    ours = row(table, "group")
    assert ours[at["CIDEr"]].endswith("[10.00, 20.00]") and ours[at["Fluency"]] == "3.40 [3.00, 3.80]"
    assert ours[at["METEOR"]] == "n/a" and "no METEOR: no `java` on the PATH" in table.notes
    assert row(table, "other")[at["Fluency"]] == "–"
    assert [table.rows[i][0] for i in sorted(table.paper)] == [
        "group, paper 3B",
        "group, paper 7B",
        "gap, paper 3B",
        "gap, paper 7B",
    ]
    paper = row(table, "gap, paper 3B")
    assert [paper[at[name]] for name in ("CIDEr", "BLEU-1", "Fluency", "BLEU-2")] == ["28.11", "40.42", "4.85", "–"]


def test_a_run_of_no_known_variant_has_no_paper_rows(runs):
    [run] = gather([runs.make(settings={"variant": "own"})])
    assert not scores([run]).paper and "variant own: 5 clips scored, 1 skipped, 1 caption empty" in sentence(run)


def test_a_disturbed_run_stands_beside_the_papers_disturbance(runs):
    path = runs.make("i", settings={"variant": "interleave", "schedule": "random:3:seed=0"})
    assert any("BLEURT of interleave: 44.11 tested with K = 3, 40.56" in note for note in tables(path)["scores"].notes)


def test_sub_tasks_come_with_their_mean_last_beside_the_papers_mean(runs):
    parts = {
        "H2": {"num_clips": 2, "corpus": CORPUS},
        "mean": {"num_clips": 2, "num_tasks": 1, "missing": ["H3"], "corpus": CORPUS},
        "C2": {"num_clips": 0, "corpus": {}},
    }
    found_tables = tables(runs.make(by_task=parts))
    table = found_tables["tasks"]
    assert [line[:3] for line in table.rows[:4]] == [
        ["H2", "group", "2"],
        ["C2", "group", "0"],
        ["mean", "group", "2"],
        ["mean", "group, paper 3B, mean of six", "–"],
    ]
    assert table.rows[0][table.columns.index("CIDEr")] == "50.00" and table.paper == {3}
    assert any("lacks H3" in note for note in table.notes) and not found_tables["scores"].paper


def test_timing_shows_what_the_summary_holds_and_nothing_else(runs):
    found_tables = tables(runs.make(), runs.make("slow", late_s=0.3))
    table = found_tables["timing"]
    assert row(table, "staleness (s)", "group")[table.columns.index("median")] == "0.1"
    assert row(table, "staleness (s)", "slow")[table.columns.index("median")] == "0.3"
    assert any(note.startswith("staleness (s): emission of a token") for note in table.notes)
    shares = found_tables["timing-shares"]
    assert row(shares, "number of tokens") == ["number of tokens", "23", "23"]
    assert any("events: n/a" in note for note in shares.notes) and not any("definitions" in r[0] for r in shares.rows)


def test_timing_of_an_unknown_form_is_shown_as_it_is(runs):
    found_tables = tables(runs.make(timing={"new": {"a_ms": 2, "why_not": None}, "word": "hello", "d": {"median": 1}}))
    assert (
        row(found_tables["timing-shares"], "new, a (ms)")[1] == "2"
        and "word: hello" in found_tables["timing-shares"].notes
    )
    assert row(found_tables["timing"], "d", "group")[2] == "1"


def test_toy_shares_are_percent_and_counts_are_not(runs):
    table = tables(runs.make(toy_events={"num_clips": 5, "color": 0.5, "told": 1.0}, toy_ci95={"told": [0.9, 1.0]}))[
        "toy"
    ]
    assert row(table, "told")[1] == "100.0 % [90.0, 100.0]"
    assert row(table, "number of clips")[1] == "5" and row(table, "color")[1] == "50.0 %"
    assert any(note.startswith("color: events whose") for note in table.notes)


def test_skipped_clips_keep_their_reasons_and_absent_parts_make_no_table(runs):
    found_tables = tables(runs.make(trace=False))
    assert found_tables["skipped"].rows == [["bad", "group", "videos/bad.mp4", "<b>empty</b>"]]
    assert found_tables.keys() == {"runs", "scores", "skipped"}


def test_runs_of_different_clips_are_said_to_be_no_comparison(runs):
    path, other = runs.make(), runs.make("other", settings={"data_sha256": "else"})
    assert any("cannot be compared" in note for note in tables(path, other)["runs"].notes)
    assert not any("cannot be compared" in note for note in tables(path)["runs"].notes)


def test_flattening_keeps_reasons_whole():
    why = {"value": None, "why": "none"}
    assert flatten({"a": {"b": 1, "c_s": why}}) == {"a, b": 1, "a, c s": why}
