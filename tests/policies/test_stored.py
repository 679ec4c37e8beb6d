"""KEEP and CHOOSE in a checkpoint: what every session of it does that is not told otherwise."""

from dataclasses import dataclass, fields, replace

import pytest

from swwatch.bench.endless.settings import EndlessBenchSettings
from swwatch.bench.live.settings import LiveBenchSettings
from swwatch.bench.stream.settings import StreamBenchSettings
from swwatch.engine.door import open_stream
from swwatch.errors import UserError
from swwatch.evaluate.caption.settings import EvalSettings
from swwatch.evaluate.commentary.settings import GenerateSettings
from swwatch.evaluate.disturb.settings import DisturbSettings
from swwatch.evaluate.quiz.settings import QuizSettings
from swwatch.model.flags import ModelFlags, SessionFlags
from swwatch.model.loading import load
from swwatch.model.settings import Settings
from swwatch.narrate.command import StreamSettings
from swwatch.narrate.turns_command import TurnsSettings
from swwatch.policies.choose import Greedy, Sampling, parse_choose
from swwatch.policies.keep import ALL, SinkWindow, Window, parse_keep
from swwatch.rules.systems import SYSTEMS
from swwatch.rules.variants import TURNS
from swwatch.serve.settings import ServeSettings
from swwatch.watch.command import WatchSettings

PROGRAMS = (
    StreamSettings,
    TurnsSettings,
    WatchSettings,
    ServeSettings,
    EvalSettings,
    DisturbSettings,
    GenerateSettings,
    LiveBenchSettings,
    StreamBenchSettings,
    EndlessBenchSettings,
)
NAMED = {"variant": "group", "keep": "window:4:text_sink=8:text_window=8", "choose": "greedy:1.05:max_new_tokens=9"}


@dataclass(frozen=True, kw_only=True)
class Flags(SessionFlags, ModelFlags):
    pass


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_that_opens_sessions_has_both_flags_by_one_way(program):
    assert issubclass(program, SessionFlags)
    assert {"keep", "choose"} <= {field.name for field in fields(program) if not field.metadata.get("hidden")}


def test_a_quiz_says_nothing_and_has_the_one_alone():
    hidden = {field.name for field in fields(QuizSettings) if field.metadata.get("hidden")}
    assert issubclass(QuizSettings, SessionFlags) and hidden == {"choose"}
    given = {"task": "mvbench", "data": "x", "model": "x"}
    with pytest.raises(UserError, match="--keep goes with --streaming"):
        QuizSettings(**given, keep="all")
    with pytest.raises(UserError, match="both say what stays"):
        QuizSettings(**given, keep="all", eviction="restart", streaming=True)


def test_a_checkpoint_knows_them_and_one_that_names_none_has_its_forms():
    settings = Settings.resolve(NAMED)
    assert settings.own_keep == Window(4, 8, 8) and settings.own_choose == Greedy(1.05, 9)
    assert Settings.resolve(settings.as_dict()) == settings
    plain = Settings.resolve({"variant": "group"})
    assert plain.own_keep == ALL and plain.own_choose == Greedy() and not {"keep", "choose"} & plain.as_dict().keys()
    for name, row in SYSTEMS.items():
        chat = Settings.resolve({"variant": name})
        assert chat.own_keep == parse_keep(row.keep) and chat.own_choose == parse_choose(row.choose)


@pytest.mark.parametrize("asked", [{"keep": "all"}, {"choose": "sampling"}])
def test_training_on_with_another_one_is_a_contradiction(asked):
    assert Settings.resolve({"variant": "group"}, **asked).as_dict()[next(iter(asked))].startswith(*asked.values())
    with pytest.raises(UserError, match="was trained with"):
        Settings.resolve(NAMED, **asked)


def test_what_a_variant_cannot_keep_is_refused():
    with pytest.raises(UserError, match="cannot be kept so"):
        Settings.resolve({"variant": "interleave"}, keep="window:4")


def test_flags_win_and_that_they_do_is_told(tiny_checkpoint, capsys):
    flags = Flags(model=str(tiny_checkpoint), variant="gap", device="cpu", keep="recent:2", choose="sampling:0.5")
    settings = flags.load(flags.model).settings
    assert str(settings.keep) == "recent:2" and settings.choose == Sampling(0.5) and settings.variant == "gap"
    assert not capsys.readouterr().err, "the checkpoint names none"
    assert Flags(model="x", keep="recent:2").put_on(Settings.resolve(NAMED), "M").own_choose == Greedy(1.05, 9)
    assert capsys.readouterr().err == f"keep recent:2 is put on M, which was trained with keep {Window(4, 8, 8)}\n"
    with pytest.raises(UserError, match="cannot be kept so"):
        replace(flags, keep="flush").load(flags.model)


@pytest.mark.parametrize("variant", ["overlap", *TURNS])
def test_the_door_opens_sessions_as_the_checkpoint_says(tiny_checkpoint, variant):
    loaded = load(tiny_checkpoint, variant=variant, device="cpu")
    form = open_stream(loaded)
    kept = {"overlap": "window:4", "tww": "all"}.get(variant, "recent:2")
    keep, choose = kept, "greedy:1.05:max_new_tokens=9" if variant == "overlap" else "greedy:1:7"
    choose = choose.replace(":7", ":max_new_tokens=7")
    named = replace(loaded, settings=replace(loaded.settings, keep=parse_keep(keep), choose=parse_choose(choose)))

    session = open_stream(named)
    assert str(session.keep) == str(parse_keep(keep)) and session.chooser.choose == parse_choose(choose)
    again = open_stream(named, keep=form.keep, choose=form.chooser.choose)
    assert again.keep == form.keep and again.chooser.choose == form.chooser.choose


def test_a_programs_limit_holds_whatever_is_chosen(tiny_checkpoint):
    def limit_of(choose: str, limit: int) -> int | None:
        return open_stream(load_named, choose=choose, limit=limit).chooser.choose.max_new_tokens

    load_named = load(tiny_checkpoint, variant="group", device="cpu")
    assert limit_of("greedy", 4096) == 4096 and limit_of("greedy:1.05", 50) == 50
    assert limit_of("greedy:max_new_tokens=9", 50) == 9 and limit_of("greedy:max_new_tokens=none", 50) == 50


def test_turns_short_names_change_the_checkpoints_own_policy(tmp_path):
    settings = TurnsSettings(model="x", video=tmp_path, text_window=3, vision_seconds=4.0)
    assert settings.keep_policy("streamingvlm", "sink_window:16:text_sink=2") == SinkWindow(4.0, 16.0, 2, 3)
    with pytest.raises(UserError, match="both say what stays"):
        replace(settings, keep="recent:4").keep_policy("streamingvlm")
    with pytest.raises(UserError, match="both say how tokens are chosen"):
        TurnsSettings(model="x", video=tmp_path, choose="greedy", top_k=4)
    with pytest.raises(UserError, match="--seed both say how tokens are chosen"):  # 0 is a number, too
        TurnsSettings(model="x", video=tmp_path, choose="sampling", seed=0)
    drawn = TurnsSettings(model="x", video=tmp_path, top_k=4).choose_policy(Greedy(1.2, 5))
    assert drawn == Sampling(top_k=4, penalty=1.2, max_new_tokens=5)
