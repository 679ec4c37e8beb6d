"""`import swwatch`: light, and all that README and docs/python.md show runs."""

import re
import subprocess
import sys

import pytest

import swwatch
from swwatch.paths import ROOT
from tests.helpers.small_clips import make_clips, write_video

PAGE = (ROOT / "docs/python.md").read_text()
EXAMPLES = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?```python\n(.*?)```", PAGE, re.S | re.M))
SAYS = {
    "Narrate": r"second 1: ",
    "Frames by hand": r"\S",
    "Questions while it watches": r"(?s)Token.*Asked What colour is it\?.*Turn",
    "A camera, a stream": r"\S",
    "Many sessions on one model": r"[1-9]\d* tokens\n[1-9]\d* tokens\n[1-9]\d* tokens",
    "Variants, systems, policies": r"'gap'.*'livecc'.*\n.*'all'.*'wait-k'.*\n\[1, 1.*\n12 tokens",
    "Training samples": r"'position_ids': \(3, 2, \d+\).*\nloss \d",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_checkpoint):
    """What the examples find: a checkpoint, a video, an annotation file of two clips."""
    here = tmp_path_factory.mktemp("python")
    make_clips(here, 2)
    write_video(here / "clip.mp4", 5, seed=9)
    (here / "model").symlink_to(tiny_checkpoint)
    return here


def test_every_example_of_the_page_is_known():
    assert EXAMPLES.keys() == SAYS.keys() and PAGE.count("```python") == len(EXAMPLES)


@pytest.mark.parametrize("title", SAYS)
def test_an_example_runs(title, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    exec(compile(EXAMPLES[title], title, "exec"), {})
    assert re.search(SAYS[title], capsys.readouterr().out)


def test_the_lines_of_the_readme_narrate_a_file(folder, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(import swwatch\n.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len([line for line in code.splitlines() if line]) <= 5
    monkeypatch.chdir(folder)
    exec(code.replace('"output/quickstart/group"', '"model", variant="group"').replace("my.mp4", "clip.mp4"), {})
    assert capsys.readouterr().out.strip()


def test_importing_it_is_light_and_the_tables_need_no_torch():
    code = "import sys, swwatch\nassert 'numpy' not in sys.modules\n"
    code += "print([list(getattr(swwatch, name)) for name in swwatch.__all__ if name.isupper()])\n"
    code += "assert not {'torch', 'transformers'} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("'gap'", "'streamingvlm'", "'wait-k'", "'greedy'"))


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="narrat"):
        swwatch.narrat  # noqa: B018


def test_what_cannot_be_is_told(folder, load_tiny):
    with pytest.raises(swwatch.UserError, match="nowhere.mp4"):
        list(swwatch.narrate(load_tiny("group"), folder / "nowhere.mp4"))
    with pytest.raises(swwatch.UserError, match="by no schedule"):
        list(swwatch.narrate(load_tiny("livecc"), folder / "clip.mp4", schedule="wait-k:3"))
