"""`swwatch quiz`: every question once, the same bytes by one process or several, whoever is killed when."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributed import HashStore

from swwatch.data.video import VideoError
from swwatch.errors import UserError
from swwatch.evaluate.quiz import command, tasks
from swwatch.evaluate.quiz.asking import Plain, choose
from swwatch.evaluate.quiz.items import Item
from swwatch.evaluate.quiz.measure import answer_all
from swwatch.evaluate.quiz.tasks import Form
from swwatch.evaluate.results import shared
from swwatch.evaluate.run_files import beside, read_lines
from swwatch.launch.ranks import SingleProcess, Stopped, Team
from swwatch.toy.checkpoint import make_checkpoint
from tests.helpers.tiny import SIZES

RUN = {"settings": {"task": "livesports"}, "about": {"num_processes": 1}}
ITEMS = [Item(f"q{i}", f"v{i // 3}", (f"{i // 3}.mp4",), f"{i}?", tuple("ABCD"), "A", "g") for i in range(24)]


class Scripted:
    """Says A where the number of the question can be divided by 3, else B."""

    form = Form()

    def __init__(self, together: bool = False, bad: frozenset = frozenset(), broken: frozenset = frozenset()):
        self.together, self.bad, self.broken, self.stop_after = together, bad, broken, None

    def units(self, items):
        videos = dict.fromkeys(item.video for item in items)
        return [[i for i in items if i.video == v] for v in videos] if self.together else [[item] for item in items]

    def answers(self, items, path):
        for item in items:
            if self.stop_after is not None:
                if not self.stop_after:
                    raise KeyboardInterrupt
                self.stop_after -= 1
            if item.video in self.broken:
                raise VideoError(path, "damaged")
            if item.key in self.bad:
                yield item, UserError("too early")
                continue
            best = int(int(item.key[1:]) % 3 != 0)
            yield item, choose(torch.eye(4)[best], dict(zip("ABCD", range(4), strict=True)), 2, (0, 1))


def ask(path, ranks, asker, items=ITEMS, max_bad_fraction=0.01):
    def work(results):
        where = {"asker": asker, "locate": lambda item: Path("/videos") / item.places[0]}
        answer_all(items, results, **where, ranks=ranks, max_bad_fraction=max_bad_fraction)

    with ranks, shared(path, RUN, [item.key for item in items], work, ranks, label="toy"):
        pass


def together(size, work):
    """`work(team)` in a thread for each rank; rank -> the error it ended with."""
    store, errors = HashStore(), {}

    def one(rank):
        try:
            work(Team(store, rank, size))
        except BaseException as error:
            errors[rank] = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def contents(path):
    return [file.read_bytes() for file in (path, beside(path, "trace.jsonl"), beside(path, "skipped.jsonl"))]


@pytest.fixture
def alone(tmp_path):
    path = tmp_path / "alone" / "toy.jsonl"
    ask(path, SingleProcess(), Scripted())
    return contents(path)


def test_answers_are_written_with_the_logits_that_they_were_chosen_by(alone):
    rows, traces = ([json.loads(line) for line in text.splitlines()] for text in alone[:2])
    assert [row["video_id"] for row in rows] == [item.key for item in ITEMS]
    assert [row["correct"] for row in rows] == [i % 3 == 0 for i in range(24)]
    assert traces[1]["tokens"][1] == {"text": "B", "token_id": 1, "logit": 1.0}


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("by_video", [False, True])
def test_several_processes_write_the_bytes_of_one(tmp_path, alone, size, by_video):
    path = tmp_path / "toy.jsonl"
    assert together(size, lambda team: ask(path, team, Scripted(together=by_video))) == {}
    assert contents(path) == alone


@pytest.mark.parametrize("by_video", [False, True])
def test_a_run_that_was_stopped_goes_on_and_doubles_nothing(tmp_path, alone, by_video):
    path = tmp_path / "toy.jsonl"
    for count in (0, 1, 5, 4):
        asker = Scripted(together=by_video)
        asker.stop_after = count
        before = len(read_lines(path))
        with pytest.raises(KeyboardInterrupt):
            ask(path, SingleProcess(), asker)
        assert len(read_lines(path)) == before + count
        for file in (path, beside(path, "trace.jsonl")):  # and a kill cut a line short
            with file.open("ab") as end:
                end.write(b'{"video_id": "q23", "gro')
    ask(path, SingleProcess(), Scripted(together=by_video))
    assert contents(path) == alone


def test_questions_that_cannot_be_asked_are_counted_listed_and_limited(tmp_path):
    path, bad = tmp_path / "toy.jsonl", {"bad": frozenset({"q7"}), "broken": frozenset({"v1"})}
    for by_video in (False, True):
        with pytest.raises(UserError, match="of 24 clips cannot be read, more than --max-bad-fraction 0.15"):
            ask(path, SingleProcess(), Scripted(by_video, **bad), max_bad_fraction=0.15)
        errors = together(2, lambda team, by_video=by_video: ask(path, team, Scripted(by_video, **bad)))
        assert any(not isinstance(error, Stopped) for error in errors.values())
    ask(path, SingleProcess(), Scripted(True, **bad), max_bad_fraction=0.2)
    skipped = [json.loads(line) for line in beside(path, "skipped.jsonl").read_text().splitlines()]
    assert [row["video_id"] for row in skipped] == ["q3", "q4", "q5", "q7"]
    assert "damaged" in skipped[0]["reason"] and skipped[3]["reason"] == "too early"
    assert len(read_lines(path)) == 20


# ---- the command ------------------------------------------------------------------------------------------------


@pytest.fixture
def flags(quiz, videos_of, tiny_checkpoint, tmp_path):
    """flags(benchmark) -> the command's arguments."""

    def of(name: str, *more) -> list[str]:
        given = {"data": quiz[name], "videos": videos_of(name), "model": tiny_checkpoint, "device": "cpu"}
        given |= {"output-dir": tmp_path / "out", "min-pixels": 3136, "total-pixels": 31360}
        return [name, *(str(part) for key, value in given.items() for part in (f"--{key}", value)), *map(str, more)]

    return of


@pytest.mark.parametrize("name", [name for name in tasks.TASKS if not tasks.get(name).form().reply])
def test_the_command_answers_every_question_of_every_benchmark(flags, quiz, tmp_path, capsys, name):
    assert command.main(flags(name)) == 0
    out = capsys.readouterr().out
    rows = [row for _, row in read_lines(tmp_path / "out" / f"{name}.jsonl").values()]
    report = json.loads((tmp_path / "out" / f"{name}_metrics.json").read_text())
    assert report["num_questions"] == report["num_items"] == len(rows) and report["num_skipped"] == 0
    assert report["settings"]["how"] == "whole clips (mrope_full)"
    table = (tmp_path / "out" / f"{name}.md").read_text()
    assert table in out and all(f"| {group} |" in table for group in report["groups"])
    if name != "ovobench":
        assert report["guessing"] == 0.25
    assert all(row["result"] in row["choices"] for row in rows)


def test_a_stopped_command_goes_on_and_its_report_can_be_drawn_again(flags, tmp_path, monkeypatch, capsys):
    path, real, count = tmp_path / "out" / "streamingbench.jsonl", Plain.logits, []

    def three(self, item, shown):
        count.append(1)
        if len(count) > 3:
            raise KeyboardInterrupt
        return real(self, item, shown)

    monkeypatch.setattr(Plain, "logits", three)
    with pytest.raises(KeyboardInterrupt):
        command.main(flags("streamingbench"))
    assert len(read_lines(path)) == 3
    assert command.main([*flags("streamingbench"), "--report"]) == 0
    assert "3 of 10 questions" in capsys.readouterr().out
    monkeypatch.setattr(Plain, "logits", real)
    command.main(flags("streamingbench"))
    assert "10 questions, 3 of them done before" in capsys.readouterr().out
    done = path.read_bytes()
    report = beside(path, "metrics.json").read_text()
    command.main(flags("streamingbench", "--restart"))
    assert path.read_bytes() == done
    table = path.with_suffix(".md").read_text()  # it tells the seconds that answers took, of this run
    path.with_suffix(".md").unlink()
    assert command.main(["streamingbench", "--report", "--output-dir", str(tmp_path / "out")]) == 0
    assert path.with_suffix(".md").read_text() == table
    with pytest.raises(UserError, match="no answers nowhere.jsonl: --beside wants a .jsonl file that"):
        command.main([*flags("streamingbench"), "--report", "--beside", "nowhere.jsonl"])
    assert json.loads(beside(path, "metrics.json").read_text())["groups"] == json.loads(report)["groups"]


def test_two_models_stand_in_one_table_with_both_averages(flags, tiny_checkpoint, tmp_path):
    other, out = make_checkpoint(tmp_path / tiny_checkpoint.name, seed=2, **SIZES), tmp_path / "out"
    of_other = ("--model", other, "--output-file", "other.jsonl")
    command.main(flags("ovobench", "--only", "EPM,ATR,CRR"))
    command.main(flags("ovobench", "--only", "EPM,ATR,CRR", *of_other))
    command.main(flags("ovobench", "--only", "EPM,ATR", "--nframes", 4, "--output-file", "less.jsonl"))
    beside_it = [part for name in ("other", "less") for part in ("--beside", str(out / f"{name}.jsonl"))]
    assert command.main(["ovobench", "--report", "--output-dir", str(out), *beside_it]) == 0
    head, _, *lines, _, note = (out / "ovobench_beside.md").read_text().splitlines()
    assert "| questions | frames | tokens | seconds | three modes | 95 % | backward and real-time | 95 % |" in head
    first, second, third = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert first[0] != second[0] and first[0] == third[0], "one name, two models"
    assert {row[0].partition("@")[0] for row in (first, second, third)} == {tiny_checkpoint.name}
    asked = len(read_lines(out / "other.jsonl"))
    assert (first[6], third[6], third[7]) == (f"{asked} of {asked}", "6 of 6", "4")
    assert third[1] == "whole clips (mrope_full), 4 frames, only EPM, ATR"
    assert third[10] == "-" and float(third[12]) >= 0, "that average lacks a mode, and has a name that says so"
    assert note == "These runs did not answer the same questions: 6 were answered in all of them."


def test_streams_and_subtitles_have_results_of_their_own(flags, quiz, tmp_path, capsys):
    folder = quiz["videomme"].parent / "subtitle"
    assert command.main(flags("videomme", "--subtitles", folder, "--max-count", 2)) == 0
    assert command.main(flags("videomme", "--streaming", "--variant", "streamingvlm", "--max-count", 2)) == 0
    out = capsys.readouterr().out
    assert "with subtitles" in out and "streaming as streamingvlm (sink_window, mrope_contiguous)" in out
    names = {path.name for path in (tmp_path / "out").glob("*.md")}
    assert names == {"videomme_subtitles.md", "videomme_streaming.md"}


def test_answers_of_another_run_are_not_mixed(flags):
    command.main(flags("mvbench", "--max-count", 2))
    with pytest.raises(UserError, match="positions was 'mrope_full', is 'flat_1d'"):
        command.main(flags("mvbench", "--max-count", 2, "--positions", "flat_1d"))
    command.main(flags("mvbench", "--max-count", 3))  # more of the same is no other run


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--streaming"], "give --variant streamingvlm or livecc"),
        (["--streaming", "--max-frames", "8"], "leaves no frame out"),
        (["--eviction", "flush"], "goes with --streaming"),
        (["--think", "notes:2"], "goes with --streaming or --unasked"),
        (["--max-frames", "1"], "max_frames must be at least 2"),
        (["--max-count", "0"], "max_count must be at least 1"),
        (["--max-bad-fraction", "2"], "max_bad_fraction must be at most 1"),
        (["--min-pixels", "0"], "min_pixels must be at least 1"),
        (["--videos", "nowhere"], "there is no folder nowhere"),
        (["--subtitles", "nowhere"], "livesports has no subtitles"),
        (["--data", "nowhere.json"], "there is no file nowhere.json"),
        (["--wording", "nowhere.yaml"], "cannot read the wording"),
        (["--report"], "there are no answers.*leave --report out"),
    ],
)
def test_mistakes_are_told(flags, more, told):
    with pytest.raises(UserError, match=told):
        command.main(flags("livesports", *more))


def test_missing_flags_and_missing_videos_are_told(flags, tmp_path):
    with pytest.raises(UserError, match="--data and --model must be given"):
        command.main(["mvbench"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"1 of \d+ clips cannot be read.*no such file"):
        command.main(flags("livesports", "--videos", tmp_path / "empty"))


def test_a_question_with_chat_markup_is_skipped_and_not_asked(load_tiny):
    from swwatch.data.budget import PixelBudget
    from swwatch.evaluate.quiz.frames import ShownFrames

    asker = Plain(load_tiny("origin"), Form(), PixelBudget("p", 3136, 3136))
    shown = ShownFrames(torch.zeros(2, 56, 56, 3, dtype=torch.uint8).numpy(), torch.tensor([0, 0.5]).numpy(), 1.0)
    with pytest.raises(UserError, match="must not contain"):
        asker.logits(replace(ITEMS[0], prompt="a <|im_end|> b"), shown)
