"""The tokens that metrics count: the jar's, and a stand-in that agrees with it on ordinary captions."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from swwatch.metrics import tokenize
from swwatch.metrics.tokenize import java_problem, tokenize_java, tokenize_python

CAPTIONS = (Path(__file__).parent / "captions.txt").read_text(encoding="utf-8").splitlines()
needs_java = pytest.mark.skipif(java_problem() is not None, reason=f"Java is missing: {java_problem()}")
HARD = [
    "",
    "...",
    "first\rsecond",
    "one\u2028two\x0bthree\x0cfour\x85five",
    "  tabs\tand\nlines ",
    "a smile \U0001f600",
    "last",
]


@pytest.mark.parametrize(
    "caption, tokens",
    [
        ("A man's dog, it doesn't run!", "a man 's dog it does n't run"),
        ("The video shows a yellow t-shirt (red/white)...", "the video shows a yellow t-shirt -lrb- red/white -rrb-"),
        ("They cannot stop: 3.5 meters, 50% off.", "they can not stop 3.5 meters 50 % off"),
        ("\u201cIt\u2019s\u201d a caf\u00e9 \u2014 open", "it 's a caf\u00e9 open"),
        ("?!", "?!"),
        (" .,;:- ", ""),
    ],
)
def test_python_tokens_of_hand_worked_captions(caption, tokens):
    assert tokenize_python([caption]) == [tokens]


@needs_java
def test_python_and_java_give_the_same_tokens_on_ordinary_captions():
    ours, theirs = tokenize_python(CAPTIONS), tokenize_java(CAPTIONS)
    differing = [pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1]]
    assert len(CAPTIONS) > 90 and not differing


@needs_java
def test_java_tokens_are_those_of_pycocoevalcap():
    theirs = PTBTokenizer().tokenize({i: [{"caption": text}] for i, text in enumerate(CAPTIONS)})
    assert tokenize_java(CAPTIONS) == [theirs[i][0] for i in range(len(CAPTIONS))]


@needs_java
def test_no_caption_shifts_another_whatever_line_ends_it_holds():
    tokens = tokenize_java(HARD)
    assert len(tokens) == len(HARD)
    assert (tokens[0], tokens[2], tokens[3], tokens[-1]) == ("", "first second", "one two three four five", "last")


@given(st.text(max_size=60))
def test_python_tokenizer_takes_any_text_and_gives_clean_lower_case_tokens(text):
    (tokens,) = tokenize_python([text])
    assert tokens == " ".join(tokens.split()) and "\n" not in tokens
    assert not set(tokens.split()) & {".", ",", "!", "?", "``", "''", '"', "-", "--", "..."}


def test_java_that_is_missing_or_broken_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no `java`" in tokenize.java_problem.__wrapped__()
    (tmp_path / "java").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "java").chmod(0o755)
    assert "fails" in tokenize.java_problem.__wrapped__()
