"""What every row of KEEP holds to, old or new: a row that is not tried here fails."""

from pathlib import Path

import pytest
import torch

from swwatch.engine.batch import Batch, Ended
from swwatch.engine.beside import StreamsSession, TwoDeviceSession
from swwatch.engine.fused import FusedSession
from swwatch.engine.session import Session
from swwatch.errors import UserError
from swwatch.narrate.command import StreamSettings
from swwatch.narrate.turns_command import TurnsSettings
from swwatch.policies.choose import Greedy
from swwatch.policies.keep import KEEP, parse_keep
from swwatch.policies.speak import WaitK
from swwatch.rules.variants import Speaks
from tests.helpers.feeds import small
from tests.helpers.keeps import FORGETS, SMALL, kept
from tests.helpers.streams import Paced, ToldSession, asking, fed_positions, plain, random_stream, spoken_by
from tests.helpers.turn_streams import Scripted, begin, play, random_steps

CHOOSE = Greedy(1.0, None)
STEPS = kept(Speaks.PARALLEL)
TURNS = kept(Speaks.TURNS)


def test_every_row_is_tried():
    assert list(SMALL) == FORGETS and {keep for _, keep in STEPS + TURNS} == set(SMALL.values())
    assert all(type(parse_keep(text)) is KEEP[name] for name, text in SMALL.items())
    assert all(str(parse_keep(str(parse_keep(text)))) == str(parse_keep(text)) for text in SMALL.values())


@pytest.mark.parametrize(("variant", "keep"), STEPS)
def test_p2_fused_and_a_batch_say_what_serial_says_and_other_engines_refuse(load_tiny, variant, keep):
    loaded = load_tiny(variant)
    stream, other = (random_stream(loaded, [(1, 2), (2, 2), (2, 3)] * n, seed=n) for n in (3, 2))
    at = {6: [3, 4, 5], 8: [6]}

    def run(kind, stream):
        return kind(loaded.model, stream.prompt, keep=keep, choose=CHOOSE), Paced(stream, orders=asking(loaded, at))

    serial, source = run(Session, stream)
    theirs = spoken_by(loaded.model, serial, source)
    fused, source = run(FusedSession, stream)
    assert spoken_by(loaded.model, fused, source) == theirs and len(theirs) > 20 and fused.num_fused
    assert fed_positions(fused) == fed_positions(serial)
    batch, said = Batch(loaded.model), {0: [], 1: []}
    for key, (kind, clip) in enumerate(((FusedSession, stream), (Session, other))):
        session, source = run(kind, clip)
        batch.add(key, session.run(source))
    while len(batch):
        for key, event in batch.advance():
            assert not isinstance(event, Ended) or event.error is None
            said[key].append(event)
    session, source = run(Session, other)
    assert plain(said[0]) == theirs and plain(said[1]) == spoken_by(loaded.model, session, source)
    for kind in (StreamsSession, TwoDeviceSession):
        with pytest.raises(UserError, match="forgets nothing: take serial or fused"):
            kind(loaded.model, stream.prompt, keep=keep, watcher=None)
    with pytest.raises(UserError, match="fast path cannot let go"):
        Session(small(loaded.model), stream.prompt, keep=keep)
    with pytest.raises(UserError, match="overlap, group, gap"):
        Session(load_tiny("interleave").model, stream.prompt, keep=keep)


@pytest.mark.parametrize("keep", ["livevlm", "carrier"])
def test_what_is_hidden_needs_a_mask(load_tiny, monkeypatch, keep):
    loaded = load_tiny("livecc")
    monkeypatch.setattr(type(loaded.model), "attention", "flash_attention_2")
    with pytest.raises(UserError, match="take --attention sdpa"):
        begin(loaded, keep=keep)


def test_that_no_mask_is_taken_is_told_before_a_model_is_loaded(tmp_path):
    """Where nothing is asked for, the fastest that takes one is."""
    (tmp_path / "config.json").write_text('{"swwatch": {"variant": "livecc", "keep": "livevlm:64"}}')
    how = {"model": str(tmp_path), "video": Path("a.mp4")}
    flash = {"attention": "flash_attention_2"}
    for flags in (
        StreamSettings(**how, **flash),
        TurnsSettings(**how, **flash),
        TurnsSettings(**how, **flash, eviction="carrier"),
    ):
        with pytest.raises(UserError, match="keep (livevlm|carrier).* take --attention sdpa"):
            flags.check_model(tmp_path)
    StreamSettings(**how, **flash, keep="sink_window").check_model(tmp_path)
    for keep, attention in (("livevlm", "sdpa"), ("carrier", "sdpa"), ("sink_window", None)):
        assert parse_keep(keep).attention(None) == attention


@pytest.mark.parametrize(("variant", "keep"), STEPS + TURNS)
def test_p3_a_later_frame_changes_no_earlier_logit(load_tiny, variant, keep):
    """A question comes in amid it."""
    loaded, runs, in_turns = load_tiny(variant), [], (variant, keep) in TURNS
    for change in (False, True):
        if in_turns:
            steps, early = random_steps(loaded, 8), []
            for step in steps[6:] if change else ():
                step.pixel_values.normal_()
            session = begin(loaded, Scripted, keep=keep).tell([[1, 2, *begin(loaded)._mute]] * 8)

            def look(s, early=early):
                s.query = "Who" if s.num_rounds == 3 else s.query
                early.append(len(s.seen_logits) if s.num_steps <= 6 else 0)

            play(session, steps, look)
        else:
            stream = random_stream(loaded, [(1, 2), (2, 2)] * 4)
            if change:
                stream.pixels[6:] = [torch.randn_like(pixels) for pixels in stream.pixels[6:]]
            options = {"keep": keep, "schedule": WaitK(2), "choose": Greedy(1.0, 20)}
            session = ToldSession(loaded.model, stream.prompt, **options).tell(stream.answer)
            spoken_by(loaded.model, session, Paced(stream, orders=asking(loaded, {4: [5, 6]})))
        runs.append(session.seen_logits)
    count = max(early) if in_turns else 12
    ours, theirs = (torch.stack(logits) for logits in runs)
    assert torch.equal(ours[:count], theirs[:count]) and not torch.equal(ours, theirs)
