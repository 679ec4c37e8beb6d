"""What models use of transformers beyond what it promises is there; where it is not, the message is clear.

A failure here means that a release of transformers changed: see swwatch/model/upstream.py for what depends on it.
"""

import ast
import re

import pytest
import torch
from torch import nn

from swwatch.errors import UserError
from swwatch.model import upstream
from swwatch.model.families import model_class
from swwatch.paths import ROOT
from swwatch.rules.families import FAMILIES

TOLD = r"transformers 5\.[\w.]+ is not what swwatch was checked with, 5\.17\.0 and 5\.23\.0; install"


class Ours(nn.Linear):
    """A class as families have it."""


class OursOfAnother(nn.Conv3d):
    """One of another module."""


def test_a_class_is_swapped_for_one_that_derives_from_it_and_back():
    module = nn.Linear(2, 2)
    upstream.swap_class(module, Ours)
    assert type(module) is Ours
    upstream.swap_back(module)
    assert type(module) is nn.Linear


@pytest.mark.parametrize(
    "module", [nn.Linear(2, 2), Ours(2, 2), OursOfAnother(1, 1, 1)], ids=lambda m: type(m).__name__
)
def test_a_module_of_another_class_than_expected_is_told(module):
    before = type(module)
    with pytest.raises(UserError, match=f"expected a Conv3d and found a {before.__name__}: {TOLD}"):
        upstream.swap_class(module, OursOfAnother)
    assert type(module) is before


def test_a_model_whose_layers_are_of_another_class_is_not_made(load_tiny, monkeypatch):
    model = load_tiny("group").model
    monkeypatch.setattr(type(model), "text_attention", OursOfAnother)
    with pytest.raises(UserError, match=f"expected a Conv3d and found a Qwen2_5_VLAttention: {TOLD}"):
        type(model)(model.config)


@pytest.mark.parametrize("name", FAMILIES)
def test_stored_weights_are_renamed_for_every_family(name, monkeypatch):
    model = model_class(name)
    names = model.__name__, FAMILIES[name].upstream
    ours, theirs = (len(upstream.get_checkpoint_conversion_mapping(of) or ()) for of in names)
    assert ours == theirs and (ours > 0) == (name != "qwen3_vl"), "whose weights are stored as they are called"
    monkeypatch.setattr(upstream, "get_checkpoint_conversion_mapping", lambda _: None)
    with pytest.raises(UserError, match=f"no renaming of stored weights for {FAMILIES[name].upstream}: {TOLD}"):
        upstream.keep_names_of_weights(model)


class Seen(Exception):
    """What an attention was given."""


def test_a_mask_in_a_dict_reaches_the_attention_as_it_is(load_tiny, monkeypatch):
    model, mask = load_tiny("group").model, object()

    def forward(self, hidden_states, attention_mask=None, **kwargs):
        raise Seen(attention_mask)

    monkeypatch.setattr(type(model).text_attention, "forward", forward)
    text = model.model.language_model
    with pytest.raises(Seen) as caught:
        text(
            inputs_embeds=torch.zeros(1, 2, model.config.text_config.hidden_size),
            position_ids=torch.zeros(3, 1, 2, dtype=torch.int64),
            attention_mask=upstream.mask_as_it_is(text.config, mask),
        )
    assert caught.value.args == (mask,), "transformers changes a mask that comes in a dict: see upstream.mask_as_it_is"


def test_attention_is_set_for_one_part_of_a_model(load_tiny):
    config = load_tiny("group", attention="eager").model.config
    before = upstream.attention_of(config.text_config)
    assert before == "eager"
    try:
        upstream.set_attention(config.text_config, "sdpa")
        assert upstream.attention_of(config.text_config) == "sdpa" != upstream.attention_of(config.vision_config)
    finally:
        upstream.set_attention(config.text_config, before)


def test_a_private_name_that_is_gone_is_told():
    class Configuration:
        """As of a release without the names."""

    for use in (
        lambda config: upstream.attention_of(config),
        lambda config: upstream.set_attention(config, "sdpa"),
        lambda config: upstream.mask_as_it_is(config, None),
    ):
        with pytest.raises(UserError, match=f"Configuration has no (_attn_implementation|layer_types): {TOLD}"):
            use(Configuration())


PLACES = {"model/upstream.py", "train/upstream.py", "plan/traced.py"}
# of the standard library: of named tuples, the end of a process, a parser's options
STANDARD = {"_asdict", "_replace", "_exit", "_run_exitfuncs", "_option_string_actions"}


def names_of(tree: ast.Module) -> tuple[set[str], set[str]]:
    """Names that a module defines, and private ones that it uses of others or imports."""
    defined, used = set(), set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                defined.add(name)
            case ast.Attribute(attr=name, ctx=ast.Store()) | ast.Name(id=name, ctx=ast.Store()):
                defined.add(name)
            case ast.Attribute(attr=name):
                used.add(name)
            case ast.ImportFrom(module=str(module), names=names) if not module.startswith("swwatch"):
                used |= {*module.split("."), *(alias.name for alias in names)}
    return defined, {name for name in used if re.match("_[^_]", name)}


def test_private_names_of_other_libraries_are_used_in_few_places():
    package = ROOT / "swwatch"
    found = {path: names_of(ast.parse(path.read_text())) for path in package.rglob("*.py")}
    ours = STANDARD.union(*(defined for defined, _ in found.values()))
    foreign = {str(path.relative_to(package)): used - ours for path, (_, used) in found.items() if used - ours}
    assert foreign.keys() == PLACES, "move what is private of another library to model/upstream.py"
