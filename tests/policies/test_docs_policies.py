"""docs/policies.md: its examples are policies, and what it says of texts is so."""

import re

import pytest
import torch

from swwatch.paths import ROOT
from swwatch.policies.choose import CHOOSE
from swwatch.policies.keep import KEEP, parse_keep
from swwatch.policies.memory.policy import Shown
from swwatch.policies.see import SEE, parse_see
from swwatch.policies.see.seen import Seen
from swwatch.policies.speak import SPEAK, parse_schedule
from swwatch.rules.schedule import spoken_steps

PAGE = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")


@pytest.fixture
def written(monkeypatch):
    """The examples, run in one namespace as a reader would; the tables are as before afterwards."""
    before = dict(SEE), dict(SPEAK), dict(KEEP)
    yield exec("\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.S)), {"__name__": "page"})
    for rows, old in zip((SEE, SPEAK, KEEP), before, strict=True):
        rows.clear()
        rows.update(old)


def test_the_examples_are_policies(written):
    see = parse_see("brightest:0.25")
    assert str(see) == "brightest:0.25" and str(parse_see("brightest")) == "brightest:0.5"
    pixels = torch.tensor([[0.1], [0.9], [0.5], [0.2], [0.7], [0.3], [0.4], [0.6]]).expand(8, 4).reshape(32, 1)
    patch = Seen(see).lay(pixels, (2, 4))
    assert patch.kept == (1, 4) and patch.num_dropped == 6
    assert spoken_steps(parse_schedule("every_other:2"), 9, 5) == [1, 1, 1, 1, 3, 3, 3, 3, 4]
    video = [Shown(number, number, number + 1) for number in range(5)]
    assert parse_keep("newest").shown(video) == [3, 4] and parse_keep("newest:3").shown(video) == [2, 3, 4]


def test_every_row_of_the_tables_is_named():
    for rows in (SEE, SPEAK, KEEP, CHOOSE):
        for name in rows:
            assert re.search(rf"^\| [A-Z]+ \|.*`{name}[:`]", PAGE, re.M), name


def test_texts_mean_what_the_page_says():
    assert parse_schedule("wait-k:3") == parse_schedule("wait-k:k=3")
    assert parse_schedule("random") == parse_schedule("random:3:seed=0")
