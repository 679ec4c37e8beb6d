"""A further variant, added as CONTRIBUTING says, in a copy of the package: everything takes it in by itself."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RULE = '''
class LateOwnAxis(OwnAxis):
    """late_group: as GDPE, from another constant."""

    first = 500

'''
ROW = '        Variant("late_group", "not in the paper", LateOwnAxis, Speaks.PARALLEL),\n'
PROGRAMS = """
from pathlib import Path
from swwatch import cli
from tests.helpers.small_clips import make_clips

data = make_clips(Path("clips"), 2)
for line in (
    "inspect --variant late_group --out pictures",
    "inspect --variant late_group --out pictures --seconds 20",
    "toy model model",
    f"train --variant late_group --model-path model --train-data {data} --output-dir trained --batch-size 1"
    " --accumulation 1 --max-steps 2 --warmup 0 --precision float32 --num-workers 0",
    f"eval --model-path trained --data-dir {data} --output-dir scores",
    "report scores/late_group_infer.json --out report",
):
    assert cli.main(line.split()) == 0, line
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The package and what its tests need, with one more row, its rule and its golden case."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("swwatch", "tests", "configs"):
        being_written = shutil.ignore_patterns("*.pyc.*")  # by another process; what is compiled comes along
        shutil.copytree(ROOT / name, folder / name, ignore=being_written)
    shutil.copy(ROOT / "pyproject.toml", folder)

    table = folder / "swwatch/rules/variants.py"
    rules, rest = table.read_text(encoding="utf-8").split("\nclass SharedStart", 1)
    rows, end = rest.split("    )\n}\n", 1)
    table.write_text(f"{rules}{RULE}\nclass SharedStart{rows}{ROW}    )\n}}\n{end}", encoding="utf-8")

    golden = folder / "tests/golden/layouts.json"
    cases = json.loads(golden.read_text(encoding="utf-8"))
    for case in [case for case in cases if case["variant"] == "group"]:
        said = [kind in ("header", "answer") for kind in case["kind"]]
        axes = [[t + 500 * late for t, late in zip(axis, said, strict=True)] for axis in case["position_ids"]]
        cases.append(case | {"variant": "late_group", "position_ids": axes})
    golden.write_text(json.dumps(cases), encoding="utf-8")
    return folder


def run_in(copy: Path, *command: str, **more: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("QWEN2_5_VL", "PYTEST"))}
    environment |= more | {"PYTHONPATH": str(copy)}
    done = subprocess.run(
        [sys.executable, *command], cwd=copy, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_tests_of_rules_and_promises_take_it_in(copy):
    promises = ["tests/engine/test_promises.py", "tests/engine/test_fused.py::test_p1_fused_equals_training"]
    chosen = ["-p", "no:cacheprovider", "-vv", "-k", "late_group or test_variants"]
    told = run_in(copy, "-m", "pytest", *chosen, "tests/rules/test_variants.py", *promises)
    for test in ("layout_equals_the_paper_as_recorded", "p1_streaming_equals_training", "p1_fused_equals_training"):
        assert f"test_{test}[late_group" in told


@pytest.mark.slow
def test_programs_draw_train_score_and_report_it(copy, path_without_java):
    told = run_in(copy, "-c", PROGRAMS, PATH=path_without_java)
    assert "late_group, here" in told and "late_group: not in the paper" in told
    assert (copy / "pictures/late_group.png").is_file()
    scores = json.loads((copy / "scores/late_group_metrics.json").read_text())
    assert scores["num_clips"] == 2 and scores["settings"]["variant"] == "late_group"
    assert r"variant late\_group" in (copy / "report/report.md").read_text(encoding="utf-8")
