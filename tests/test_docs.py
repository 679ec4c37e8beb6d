"""What the papers on the wall say is there, is there."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from swwatch.rules.variants import VARIANTS

ROOT = Path(__file__).resolve().parents[1]


def named_tests(page: str) -> list[tuple[str, str]]:
    """(file, test) of every `file::test` in a page; `::test` stays in the file named before it."""
    found, current = [], ""
    for file, test in re.findall(r"`([\w/]+\.py)?::(test_\w+)`", (ROOT / page).read_text()):
        current = file or current
        found.append((current, test))
    return found


def test_every_row_of_the_fidelity_table_names_a_test_that_exists():
    rows = [line for line in (ROOT / "docs/fidelity.md").read_text().splitlines() if re.match(r"\| \d+ \|", line)]
    assert len(rows) == 13 and all("::test_" in row for row in rows)


def test_every_row_of_the_tables_of_systems_in_turns_names_a_test():
    differing = (ROOT / "docs/streaming.md").read_text().split("## Where we differ")[1]
    rows = [line for line in differing.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if "held by" not in row]
    assert len(rows) >= 18 and all("::test_" in row for row in rows)


@pytest.mark.parametrize("page", ["docs/fidelity.md", "docs/streaming.md"])
def test_tests_that_are_named_exist(page):
    there = {file: (ROOT / "tests" / file).read_text() for file, _ in named_tests(page)}
    assert there
    assert not [f"{file}::{test}" for file, test in named_tests(page) if f"def {test}(" not in there[file]]


def test_links_of_the_pages_lead_somewhere():
    for page in sorted((ROOT / "docs").rglob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_path_in_the_readme_exists():
    readme = (ROOT / "README.md").read_text()
    linked = re.findall(r"\]\(([^)#:]+)\)", readme)
    named = re.findall(r"(?:bash|python) ((?:scripts/)?\w+\.(?:sh|py))", readme)
    tree = [word for word in re.findall(r"^ {0,2}([\w/]+(?:\.\w+|/))(?= )", readme, re.M)]
    assert len(linked) >= 3 and len(named) > 3 and len(tree) > 8
    for path in linked + named:
        assert (ROOT / path).exists(), path
    for path in tree:
        assert (ROOT / path).exists() or (ROOT / "swwatch" / path).exists(), path


def test_readme_has_the_table_of_variants():
    readme = (ROOT / "README.md").read_text()
    for name, variant in VARIANTS.items():
        assert re.search(rf"^\| `{name}` \| {re.escape(variant.paper)} \|", readme, re.M), name


@pytest.mark.parametrize("path", sorted((ROOT / "configs/train").glob("*.yaml")), ids=lambda p: p.stem)
def test_training_configs_load_and_say_what_they_are(path):
    from swwatch.config import load_settings
    from swwatch.train.settings import TrainSettings

    load_settings(TrainSettings, yaml_path=path, env={}, flags={})
    header = path.read_text().split("\ntrain_")[0]
    assert "command:" in header and "hardware:" in header and "measured" in header
    assert yaml.safe_load(path.read_text())


def test_scripts_are_valid_shell():
    for script in [ROOT / "eval.sh", ROOT / ".ci/run", *(ROOT / "scripts").glob("*.sh")]:
        subprocess.run(["bash", "-n", str(script)], check=True)
