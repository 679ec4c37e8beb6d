"""Caption scores: pycocoevalcap's numbers, hand-worked cases, and nothing missing in silence."""

import gc
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pycocoevalcap
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor import meteor as their_meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from swwatch.errors import UserError
from swwatch.metrics import captions
from swwatch.metrics.captions import caption_scores
from swwatch.metrics.tokenize import java_problem, tokenize_python

needs_java = pytest.mark.skipif(java_problem() is not None, reason=f"Java is missing: {java_problem()}")
REFERENCES = {
    "a": "The video shows a red circle moving left, a blue square moving up.",
    "b": ["The video shows a man's dog that doesn't bark.", "A dog stays silent."],
    "c": "The video shows rain (heavy) on a window.",
}
PREDICTIONS = {
    "c": "The video shows heavy rain on a window, and a cat.",
    "a": "The video shows a red square moving left, a blue square moving up.",
    "b": "The video shows a dog.",
}


@pytest.fixture
def no_java(monkeypatch):
    monkeypatch.setattr(captions, "java_problem", lambda: "no `java` on the PATH")


def test_hand_worked_scores_of_one_short_caption(no_java):
    # 3 of 4 words match; bigrams "a red", "red circle" of 3; trigram "a red circle" of 2; no 4-gram; same length.
    scores = caption_scores({"x": "a red circle moves"}, {"x": "A red circle turns."})["corpus"]
    assert scores["BLEU-1"] == pytest.approx(3 / 4)
    assert scores["BLEU-2"] == pytest.approx(math.sqrt(3 / 4 * 2 / 3))
    assert scores["BLEU-3"] == pytest.approx((3 / 4 * 2 / 3 * 1 / 2) ** (1 / 3))
    assert scores["BLEU-4"] == pytest.approx(0, abs=1e-3)
    assert scores["ROUGE-L"] == pytest.approx(3 / 4)  # precision = recall = 3/4
    # brevity: 3 words against 5, every word right
    short = caption_scores({"x": "a red circle"}, {"x": "a red circle moving left"})["corpus"]
    assert short["BLEU-1"] == pytest.approx(math.exp(1 - 5 / 3))
    precision, recall, beta = 1, 3 / 5, 1.2
    assert short["ROUGE-L"] == pytest.approx((1 + beta**2) * precision * recall / (recall + beta**2 * precision))


def test_hand_worked_cider_of_two_clips(no_java):
    # Words of both references have weight 0, all others the same: a perfect caption scores 10 on every n-gram order
    # that it has (four words: orders 1 to 4), a caption without a shared rare n-gram 0.
    refs = {"x": "the red circle moves up", "y": "the blue square falls down"}
    got = caption_scores({"x": "the red circle moves up", "y": "the"}, refs)
    assert got["per_clip"]["x"]["CIDEr"] == pytest.approx(10)
    assert got["per_clip"]["y"]["CIDEr"] == 0
    assert got["corpus"]["CIDEr"] == pytest.approx(5)


def test_cider_of_a_single_clip_is_zero_by_definition(no_java):
    assert caption_scores({"x": "a red circle"}, {"x": "a red circle"})["corpus"]["CIDEr"] == 0


def test_empty_caption_scores_zero_and_counts(no_java):
    got = caption_scores({"a": "", "b": REFERENCES["b"][0]}, {k: REFERENCES[k] for k in "ab"})
    empty = got["per_clip"]["a"]
    assert got["num_clips"] == 2 and all(empty[name] == 0 for name in ("BLEU-1", "BLEU-4", "ROUGE-L", "CIDEr"))
    assert got["corpus"]["ROUGE-L"] == pytest.approx(0.5)  # the mean counts it


@pytest.fixture(scope="module")
def scored():
    return caption_scores(PREDICTIONS, REFERENCES)


@needs_java
def test_all_scores_are_pycocoevalcaps_own(scored):
    theirs_in = [
        PTBTokenizer().tokenize(
            {k: [{"caption": c} for c in ([v] if isinstance(v, str) else v)] for k, v in d.items()}
        )
        for d in (REFERENCES, {k: PREDICTIONS[k] for k in REFERENCES})
    ]
    ours = scored
    assert ours["tokenizer"] == "ptb-java" and list(ours["per_clip"]) == list(PREDICTIONS)
    bleu, bleus = Bleu(4).compute_score(*theirs_in, verbose=0)
    expected = {f"BLEU-{n + 1}": (bleu[n], bleus[n]) for n in range(4)}
    expected |= {"ROUGE-L": Rouge().compute_score(*theirs_in), "CIDEr": Cider().compute_score(*theirs_in)}
    expected |= {"METEOR": their_meteor.Meteor().compute_score(*theirs_in)}
    assert {*expected, "METEOR-mean"} == set(ours["corpus"])
    for name, (total, each) in expected.items():
        assert ours["corpus"][name] == pytest.approx(total, abs=1e-12), name
        ours_each = {k: v[name] for k, v in ours["per_clip"].items()}
        assert ours_each == pytest.approx(dict(zip(REFERENCES, each, strict=True)), abs=1e-12), name


@needs_java
def test_meteor_has_no_interval_but_the_mean_of_its_clips_has_one_under_its_own_name(scored):
    got = scored
    each = [clip["METEOR"] for clip in got["per_clip"].values()]
    assert got["corpus"]["METEOR-mean"] == pytest.approx(sum(each) / 3)
    assert "METEOR" not in got["ci95"] and got["ci95"]["METEOR-mean"][0] <= sum(each) / 3
    assert all("METEOR-mean" not in clip for clip in got["per_clip"].values())


def test_every_value_lies_in_its_interval(no_java):
    got = caption_scores(PREDICTIONS, REFERENCES)
    assert set(got["ci95"]) == {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"}
    assert all(low <= got["corpus"][name] <= high for name, (low, high) in got["ci95"].items())


def test_learned_metrics_see_raw_captions_and_references_in_one_order(no_java):
    seen = []

    def length(captions_, references):
        seen.append((captions_, references))
        return {"Length": [float(len(text)) for text in captions_]}

    got = caption_scores(PREDICTIONS, REFERENCES, learned=[length])
    assert seen == [(list(PREDICTIONS.values()), [[REFERENCES["c"]], [REFERENCES["a"]], REFERENCES["b"]])]
    lengths = {key: len(text) for key, text in PREDICTIONS.items()}
    assert {key: clip["Length"] for key, clip in got["per_clip"].items()} == lengths
    assert got["corpus"]["Length"] == pytest.approx(sum(lengths.values()) / 3) and "Length" in got["ci95"]


def test_without_java_meteor_is_unavailable_and_never_zero(no_java, capsys):
    got = caption_scores(PREDICTIONS, REFERENCES)
    assert got["corpus"]["METEOR"] == {"value": None, "why": "no `java` on the PATH"}
    assert got["tokenizer"] == "ptb-python" and all("METEOR" not in each for each in got["per_clip"].values())
    assert set(got["corpus"]) == {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr", "METEOR"}
    assert capsys.readouterr().out == ""  # the scorers' own prints are off


class BrokenMeteor(their_meteor.Meteor):
    """A jar that runs `program` instead."""

    program = ["sh", "-c", "echo 'out of memory' >&2; exit 1"]

    def __init__(self):
        super().__init__()
        self.meteor_p.kill()
        self.meteor_p.wait()
        pipe = subprocess.PIPE
        self.meteor_p = subprocess.Popen(self.program, stdin=pipe, stdout=pipe, stderr=pipe)


@needs_java
@pytest.mark.parametrize(
    "program, why",
    [
        (["sh", "-c", "echo 'out of memory' >&2; exit 1"], "out of memory"),
        (["sh", "-c", "while read line; do echo nonsense; done"], "nonsense"),
        (["sh", "-c", "exec sleep 60"], "failed"),
    ],
    ids=["dies", "answers nonsense", "hangs"],
)
def test_a_failing_meteor_jar_is_reported_and_the_other_scores_stand(monkeypatch, program, why):
    monkeypatch.setattr(captions, "tokenize_java", tokenize_python)  # starts quicker
    monkeypatch.setattr(captions, "EnglishMeteor", type("Broken", (BrokenMeteor,), {"program": program}))
    monkeypatch.setattr(captions._meteor, "__defaults__", (1.0,))  # the watchdog's patience in seconds
    got = caption_scores(PREDICTIONS, REFERENCES)
    gc.collect()  # Meteor.__del__ must not wait for a lock
    assert got["corpus"]["METEOR"]["value"] is None and why in got["corpus"]["METEOR"]["why"]
    assert got["corpus"]["CIDEr"] > 0


@needs_java
@pytest.mark.parametrize("kind", ["decimal comma", "blank in the path"])
def test_meteor_in_every_locale_and_folder(tmp_path, kind):
    """In a process of its own, whose Java and whose package are as a user may have them."""
    environment = dict(os.environ)
    if kind == "decimal comma":
        environment["JAVA_TOOL_OPTIONS"] = "-Duser.language=de -Duser.country=DE"
    if kind == "blank in the path":
        folder = Path(pycocoevalcap.__path__[0])
        (tmp_path / "with blank" / "pycocoevalcap").mkdir(parents=True)
        for part in folder.iterdir():
            (tmp_path / "with blank" / "pycocoevalcap" / part.name).symlink_to(part)
        (tmp_path / "with blank" / "pycocoevalcap" / "meteor").unlink()
        shutil.copytree(folder / "meteor", tmp_path / "with blank" / "pycocoevalcap" / "meteor")
        environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "with blank"), environment.get("PYTHONPATH", "")])
    code = (
        "from swwatch.metrics.captions import caption_scores as score; import pycocoevalcap\n"
        "print(pycocoevalcap.__path__[0])\n"
        "said, meant = {'a': 'A man runs.', 'b': 'A dog.'}, {'a': 'A man runs fast.', 'b': 'A cat.'}\n"
        "print(score(said, meant)['corpus']['METEOR'])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    where, value = done.stdout.splitlines()
    assert ("with blank" in where) == (kind == "blank in the path") and 0 < float(value) < 1


def test_a_reference_without_a_word_leaves_out_its_clip_and_no_other(no_java):
    got = caption_scores({**PREDICTIONS, "d": "a dog"}, {**REFERENCES, "d": "..."})
    plain = caption_scores(PREDICTIONS, REFERENCES)
    assert got.pop("left_out") == ["d"] and got == plain


@pytest.mark.parametrize(
    "predictions, references, message",
    [
        ({}, {}, "no caption to score"),
        ({"a": "x", "b": "y"}, {"a": "x"}, "1 of 2 clips have no reference"),
        ({"a": "x"}, {"a": "x", "b": "y", "c": "z"}, "2 of 3 clips have no caption"),
        ({"a": "x"}, {"a": []}, "1 of 1 clips have no reference"),
        ({"a": "x", "b": "."}, {"a": "!", "b": "..."}, "none of the 2 clips has a reference with a word"),
    ],
)
def test_sets_that_do_not_match_are_refused_with_counts(no_java, predictions, references, message):
    with pytest.raises(UserError, match=message):
        caption_scores(predictions, references)
