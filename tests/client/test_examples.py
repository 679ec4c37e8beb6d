"""The examples of docs/protocol.md run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs/protocol.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)


@pytest.mark.parametrize("number", range(2))
def test_an_example_runs(server, clip, number):
    assert len(EXAMPLES) == 2
    code = EXAMPLES[number].replace("http://127.0.0.1:8000", server.address)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=clip.parent,
        env=os.environ | {"PYTHONPATH": str(PAGE.parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert ("WEBVTT", "answered from second 2 on")[number] in done.stdout
