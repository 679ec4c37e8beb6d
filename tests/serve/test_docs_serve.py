"""docs/serve.md says what the code does: limits, sizes, metrics, flags."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
import torch

from swwatch.bench.models import shape_config
from swwatch.bench.shapes import SHAPES
from swwatch.config import Parser, add_flags
from swwatch.data.budget import BUDGETS
from swwatch.model.families.qwen2_5_vl import WatchingQwen2_5_VL
from swwatch.serve import limits
from swwatch.serve.metrics import Metrics
from swwatch.serve.settings import Limits, ServeSettings

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/serve.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """Cells of a section's table, without its head."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_table_of_limits_is_the_codes():
    told = {
        f"`--{field.name.replace('_', '-')}`": (str(field.default), field.metadata["help"])
        for field in dataclasses.fields(Limits)
    }
    assert {flag: (default, text) for flag, default, text in rows("Limits")} == told
    section = " ".join(PAGE.split("\n## Limits\n")[1].split("|")[0].split())
    for number in (
        limits.MISTAKES,
        limits.ORDERS_PER_S,
        limits.MAX_ASKS,
        limits.REPLAY,
        f"{limits.OPEN_WITHIN_S:g} s",
    ):
        assert re.search(rf"\b{number}\b", section), number


def test_every_flag_and_command_of_the_page_is_one():
    parser = Parser("swwatch serve", "")
    add_flags(parser, ServeSettings)
    known = {flag for action in parser._actions for flag in action.option_strings}
    others = {
        "--clips",
        "--on",
        "--webhook",
        "--server",
        "--clients",
        "--seconds",
        "--build-arg",
        "--profile",
        "--build",
    }
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE)) <= known | others
    commands = re.findall(r"^swwatch serve (.*?)(?: {2,}#.*)?$", PAGE, re.M)
    assert len(commands) >= 4
    for command in commands:
        parser.parse_args(shlex.split(command))


def test_the_metrics_of_the_page_are_those_of_the_server():
    text = Metrics().text().decode()
    there = {name for name in re.findall(r"^# TYPE (swwatch_\w+) ", text, re.M) if not name.endswith("_created")}
    told = set(
        re.findall(r"`(swwatch_\w+)(?:\{[\w,]+\})?`", "".join(row[0] + " " for row in rows("Watching the server")))
    )
    assert told == there


@pytest.mark.parametrize("column, shape", [(1, "3b"), (2, "7b")])
def test_the_sizes_are_those_of_the_shapes(column, shape):
    with torch.device("meta"):
        model = WatchingQwen2_5_VL._from_config(shape_config(shape, "group"), dtype=torch.bfloat16)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    text, _ = SHAPES[shape]
    head = text["hidden_size"] // text["num_attention_heads"]
    token = 2 * text["num_hidden_layers"] * text["num_key_value_heads"] * head * 2
    tokens = int(Limits().total_s) * (BUDGETS["declared"].max_pixels // 28**2 + 3)
    weights, session = 2 * parameters, token * tokens
    assert [row[column] for row in rows("Sizes")] == [
        f"{parameters / 1e9:.2f} B",
        f"{weights / 1e9:.1f} GB",
        f"{token:,} B",
        f"{session / 1e9:.1f} GB",
        f"{(weights + Limits().max_sessions * session) / 1e9:.1f} GB",
    ]


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#:]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link


def test_building_the_images_is_said_not_to_have_been_exercised():
    assert "Building and running these images was not exercised" in PAGE
