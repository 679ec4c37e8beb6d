"""Captions to the tokens that the metrics count, by pycocoevalcap's rule: Penn Treebank tokens without punctuation.

pycocoevalcap runs Stanford's PTBTokenizer, which needs Java. Where there is none `tokenize_python` stands in: the same
tokens on ordinary English captions (tests compare the two), not on everything (unknown abbreviations, URLs, emoji).
"""

import functools
import re
import shutil
import subprocess
from pathlib import Path

from pycocoevalcap.tokenizer import ptbtokenizer

JAVA_TIMEOUT_S = 300
JAR = Path(ptbtokenizer.__file__).parent / ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR
# The list has upper-case bracket names such as -LRB-, but tokens are lower-cased before the comparison: brackets stay
# in as -lrb- and -rrb-. Kept so, for scores equal to pycocoevalcap's.
DROPPED = frozenset(ptbtokenizer.PUNCTUATIONS)


@functools.cache
def java_problem() -> str | None:
    """None where a working `java` is on the PATH, else what is wrong (macOS ships a `java` that only says so)."""
    if shutil.which("java") is None:
        return "no `java` on the PATH"
    try:
        subprocess.run(["java", "-version"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        return f"`java -version` fails: {error}"
    return None


def one_line(text: str) -> str:
    """White space of any kind as single blanks. The jars work line by line and take \\r, \\v, \\f and U+2028 for line
    ends too; one in a caption would shift every later caption to another clip."""
    return " ".join(text.replace("\x85", " ").split())


def tokenize_java(captions: list[str]) -> list[str]:
    """PTB tokens by the jar inside pycocoevalcap, joined by blanks; punctuation dropped.

    Raises:
        subprocess.SubprocessError: the jar failed or hung.
        RuntimeError: it answered with another number of lines than captions.
    """
    command = ["java", "-cp", str(JAR), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    text = "".join(one_line(caption) + "\n" for caption in captions)
    done = subprocess.run(
        [*command, "-encoding", "utf-8"],
        input=text.encode("utf-8", errors="replace"),
        capture_output=True,
        check=True,
        timeout=JAVA_TIMEOUT_S,
    )
    lines = done.stdout.decode("utf-8").split("\n")[:-1]
    if len(lines) != len(captions):
        raise RuntimeError(f"the PTB tokenizer answered {len(lines)} lines for {len(captions)} captions")
    return [" ".join(word for word in line.split() if word not in DROPPED) for line in lines]


_ABBREVIATIONS = "mr mrs ms dr prof st sr jr vs no ave blvd rd mt ft ltd co corp gen col sgt lt capt rev inc"
_ABBREVIATIONS += " jan feb mar apr jun jul aug sep sept oct nov dec"
_STARTERS = "The|Then|This|That|These|There|A|An|He|She|It|They|We|You|In|At|As|When|While|After|But|So|Her"
_QUOTES = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "--", "\u2014": "--", "\u2026": "..."}
)
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_SPLIT = {"cannot": "can not", "gonna": "gon na", "gotta": "got ta", "wanna": "wan na", "gimme": "gim me"}
_SPLIT |= {"lemme": "lem me"}
_TOKEN = re.compile(
    rf"""
      https?://\S+ | [\w.+-]+@[\w-]+\.[\w.]*\w               # addresses
    | (?:[a-z]\.){{2,}} | (?-i:\b[A-Z]\.(?!\s*$|\s+(?:{_STARTERS})\b))  # u.s. a.m. John F. Kennedy
    | \b(?:{"|".join(_ABBREVIATIONS.split())})\.(?=\s+\S)    # mr. Smith, but not the end of the caption
    | \betc\.                                               # that one keeps its period everywhere
    | (?:(?<!\S)[+-])?\d+(?:[.,:/-]\d+)+(?:-\w+)*(?!\w)     # 3.5 1,000 10:30 1/2 3.5-meter-tall
    | (?<!\S)[+-]\d+\b                                      # -5
    | o'clock | 'n' | '\d0s\b | \by' | \b[od]'(?=[a-z])[a-z]+\b
    | [^\W_]+(?=n't\b) | n't\b                              # does n't
    | '(?:s|m|d|re|ve|ll)\b                                 # man 's
    | @?[\w&]*\w(?:[-/.]\w+)*                               # words, t-shirt, red/white
    | \.\.\.+ | --+ | [?!]{{2,}} | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)


def tokenize_python(captions: list[str]) -> list[str]:
    """The stand-in without Java: PTB-like tokens joined by blanks; punctuation dropped."""
    return [" ".join(_words(caption)) for caption in captions]


def _words(caption: str) -> list[str]:
    words: list[str] = []
    for token in _TOKEN.findall(one_line(caption).translate(_QUOTES)):
        token = _BRACKETS.get(token, token.lower())
        if token not in DROPPED and token != '"' and not re.fullmatch(r"\.{2,}|-{2,}", token):
            words += _SPLIT.get(token, token).split()
    return words
