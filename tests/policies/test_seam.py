"""The seam for ideas: what is trained is what is streamed, whatever the policy.

Worked examples outside the tables: a SEE policy that drops every second token, one that drops by pixels, one that
merges by features, both now and then a whole patch, and a SPEAK policy that speaks at every third step. The rows of
SEE take turns on the variants. Samples come from real clips through dataset and collator, streams from the same
clips. A KEEP policy that keeps the newest two seconds, of random streams.
"""

import itertools
import json
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar
from unittest import mock

import pytest
import torch

from swwatch.data.collator import Collator
from swwatch.data.packing import Pack
from swwatch.data.prompt import IGNORED, load_prompts
from swwatch.engine.batch import Batch, Ended
from swwatch.engine.beside import StreamsSession, TwoDeviceSession
from swwatch.engine.fused import FusedSession
from swwatch.engine.requests import drive
from swwatch.engine.session import Session
from swwatch.engine.trace import Spoken, Watched
from swwatch.engine.two_device import Copy, ProcessWatcher
from swwatch.engine.watcher import ThreadWatcher
from swwatch.errors import UserError
from swwatch.model import flags, late
from swwatch.model.loading import load
from swwatch.model.settings import Settings
from swwatch.policies.choose import Greedy
from swwatch.policies.keep import Keep, Window
from swwatch.policies.see import ALL, SEE, Merged, See
from swwatch.policies.see.curve import Curve
from swwatch.policies.see.dtd import Dtd, DtdPixels
from swwatch.policies.see.flash import Flash
from swwatch.policies.see.seen import Seen, look_at_video
from swwatch.policies.see.stc import Stc
from swwatch.policies.speak import SPEAK, Speak, WaitK
from swwatch.rules.layout import Kind
from swwatch.rules.patch import Patch
from swwatch.rules.schedule import Now
from swwatch.rules.spans import Part
from swwatch.rules.variants import VARIANTS, Speaks
from swwatch.rules.visibility import WATCHED
from swwatch.train.command import main as train
from tests.helpers.small_clips import clip_dataset, write_video
from tests.helpers.streams import Paced, Stream, ToldSession, fed_positions, plain, random_stream, spoken_by
from tests.helpers.turn_streams import begin, play, random_steps
from tests.helpers.watcher_work import hesitant_copy

PARALLEL = [name for name, variant in VARIANTS.items() if variant.speaks is Speaks.PARALLEL]
SECONDS = (7, 4, 3)
CHOOSE = Greedy(1.0, 40)


@dataclass(frozen=True)
class EverySecond(See):
    """Every second token, the even ones and the odd ones by turns."""

    name: ClassVar[str] = "every_second"

    def begin(self):
        return TakingTurns()


class TakingTurns:
    count = 0

    def keep(self, pixels, rows, columns):
        first, self.count = self.count % 2, self.count + 1
        return range(first, rows * columns, 2)


@dataclass(frozen=True)
class Bright(See):
    """Tokens brighter than the mean of their patch, and nothing of the first and of every third patch after it."""

    name: ClassVar[str] = "bright"

    def begin(self):
        return CountingPatches()


class CountingPatches:
    count = 0

    def keep(self, pixels, rows, columns):
        self.count += 1
        light = pixels.mean(1)
        return [] if self.count % 3 == 1 else (light > light.mean()).nonzero()[:, 0].tolist()


@dataclass(frozen=True)
class EveryThird(Speak):
    """All that was due at every third step."""

    name: ClassVar[str] = "every_third"

    def budget(self, now: Now) -> int:
        assert now.at_s == now.step + 0.5, "the clock of a stream whose steps come in time"
        return 3 * self.k if now.step % 3 == 2 else 0


@dataclass(frozen=True)
class Pairs(See):
    """Neighbours of a row as one, where their features are alike enough, and nothing of every third patch."""

    name: ClassVar[str] = "pairs"
    needs: ClassVar[str] = "features"

    def begin(self):
        return CountingPairs()


class CountingPairs:
    count = 0

    def keep(self, features, rows, columns):
        self.count += 1
        if self.count % 3 == 1:
            return []
        weights = torch.eye(len(features))
        alike = (features[::2] - features[1::2]).square().sum(1)
        for cell in 2 * (alike < alike.median()).nonzero()[:, 0]:
            weights[cell, cell : cell + 2] = 0.5
            weights[cell + 1] = 0
        cells = weights.sum(1).nonzero()[:, 0]
        return Merged(cells.tolist(), weights[cells])


SEES = [EverySecond(), Bright(), Pairs()]
ROWS = [Dtd(0.3), DtdPixels(1.0), Stc(0.5), Flash(0.5, threshold=0.3), Curve()]  # such that some goes on these clips
SPEAKS = [WaitK(2), EveryThird(2)]


def turns(names, *more: list, count=1) -> list:
    """(variant, see, *more): every combination with the first two examples; the third, and each row of the table, with
    `count` of them, by turns."""
    others = list(itertools.product(list(names), *more))
    late = enumerate([SEES[2], *ROWS])
    own = [(others[(5 * row + 7 * i) % len(others)], see) for row, see in late for i in range(count)]
    chosen = [(variant, see, *rest) for (variant, *rest), see in [*itertools.product(others, SEES[:2]), *own]]
    return [pytest.param(*of, id="-".join(map(str, of))) for of in chosen]


@pytest.fixture(scope="module")
def clips(made_once):
    """An annotation file of clips whose merged grid is 2 x 4."""

    def make(folder):
        lines = []
        for number, seconds in enumerate(SECONDS):
            write_video(folder / f"{number}.mp4", seconds, seed=number, size=(56, 112))
            caption = "a red circle moves, " * 2 * seconds
            lines.append({"video_id": number, "human_caption": caption, "video_path": f"{number}.mp4"})
            lines[-1]["video_duration_in_s"] = float(seconds)
        (folder / "clips.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    return made_once("seam-clips", make) / "clips.jsonl"


@pytest.fixture
def world(load_tiny, clips):
    """world(variant, see, speak) -> the model under these policies, and the samples of all clips."""
    undo = []

    def build(variant, see, speak):
        loaded = load_tiny(variant)
        patch = mock.patch.object(loaded.model, "settings", replace(loaded.settings, see=see, schedule=speak))
        patch.start()
        undo.append(patch)
        dataset = clip_dataset(loaded, clips, variant, speak, see=see, prompts=load_prompts())
        return loaded.model, [dataset[0, i].sample for i in range(len(SECONDS))]

    yield build
    for patch in reversed(undo):
        patch.stop()


def stream_of(sample) -> Stream:
    """The clip of a sample as it would come in, with all its pixels."""
    steps, rows, columns = sample.video_grid_thw[0].tolist()
    prompt = sample.input_ids[sample.tokens.where(Kind.PROMPT)].tolist()
    answer = sample.input_ids[sample.tokens.where(Kind.ANSWER)].tolist()
    pixels = list(sample.pixel_values.split(rows * columns))
    return Stream(prompt, pixels, [torch.tensor([[1, rows, columns]])] * steps, answer)


def told(model, stream: Stream) -> ToldSession:
    """A session that says the answer of a stream."""
    return ToldSession(model, stream.prompt, choose=Greedy(max_new_tokens=len(stream.answer))).tell(stream.answer)


def trained(model, sample) -> torch.Tensor:
    """Logits that predict the answer, from one forward of the collated sample."""
    batch = Collator(0).batch([sample])
    labels = batch["labels"][0]
    with torch.no_grad():
        logits = model(**batch).logits[0]
        if model.settings.changes_rows:
            rows = {name: batch.get(name) for name in late.ROWS}
            rows, _ = late.look(model, rows, sample.pixel_values, sample.video_grid_thw, batch.get("kept"))
            labels = rows["labels"][0]
    return logits[:-1][labels[1:] != IGNORED]


def left_of(model, sample) -> list[Patch]:
    """What the policy leaves of a sample's video."""
    see, grids = model.settings.see, [(2, 4)] * int(sample.video_grid_thw[0, 0])
    if not see.decides_late:
        return list(sample.patches)
    assert sample.patches == (), "laid out whole"
    features = model.watch_video(sample.pixel_values, sample.video_grid_thw)
    return look_at_video(see, features, grids, model.num_deep)[0]


@pytest.mark.parametrize(("variant", "see", "speak"), turns(VARIANTS, SPEAKS, count=2))
def test_p1_and_p4_what_is_streamed_is_what_was_trained_and_every_token_is_fed_or_counted(world, variant, see, speak):
    model, samples = world(variant, see, speak)
    if see not in SEES[:2]:
        samples = samples[:1]
    for sample in samples:
        stream, patches, arrived = stream_of(sample), left_of(model, sample), 8 * int(sample.video_grid_thw[0, 0])
        assert sum(patch.num_arrived for patch in patches) == arrived
        dropped = sum(patch.num_dropped for patch in patches)
        held, late = arrived - dropped, dropped if see.decides_late else 0
        assert 0 < held == int((sample.input_ids == model.markup.video).sum()) - late < arrived
        session = ToldSession(model, stream.prompt, choose=Greedy(max_new_tokens=len(stream.answer))).tell(
            stream.answer
        )
        events = list(drive(model, session.run(Paced(stream))))
        torch.testing.assert_close(torch.stack(session.seen_logits), trained(model, sample), atol=1e-4, rtol=0)
        watched = [event for event in events if isinstance(event, Watched)]
        assert [event.num_dropped for event in watched] == [patch.num_dropped for patch in patches]
        assert [(*event.grid, event.kept) for event in watched] == [patch[:3] for patch in patches]
        assert session.seen.num_arrived == arrived == held + session.seen.num_dropped
        fed = session.cache.tokens[WATCHED]
        assert int(fed.where(Kind.VIDEO).sum()) == held and session.cache.num_fed == len(sample.tokens) - late - 1
        spoken = [event.step for event in events if isinstance(event, Spoken)]
        offline = VARIANTS[variant].speaks is Speaks.OFFLINE
        assert offline or spoken == sample.tokens.step[sample.tokens.where(Kind.ANSWER)].tolist()


@pytest.mark.parametrize(("variant", "see"), turns(VARIANTS))
def test_p9_loss_and_gradients_of_packed_and_padded_samples_are_those_of_the_samples_alone(world, variant, see):
    model, samples = world(variant, see, EveryThird(2))
    collate, total = Collator(0), sum(int((s.labels != IGNORED).sum()) for s in samples)

    def run(batches):
        model.zero_grad()
        losses = [model(**batch, num_items_in_batch=total).loss for batch in batches]
        sum(losses).backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        return sum(losses).item(), gradients

    alone, theirs = run([collate.batch([sample]) for sample in samples])
    packed = collate([Pack(tuple(samples[:2])), Pack(tuple(samples[2:]))])
    inputs = {name: value for name, value in packed.items() if name not in ("skips", "counts")}
    for batch in (inputs, collate.batch(samples)):
        loss, ours = run([batch])
        assert loss == pytest.approx(alone, abs=1e-5) and len(ours) == len(theirs) > 50
        for one, other in zip(ours, theirs, strict=True):
            # tol = float32 rounding of sums over some hundred tokens, relative to the largest gradient of the tensor
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * max(1e-3, float(other.abs().max())))


@pytest.mark.parametrize(("variant", "see"), turns(VARIANTS))
def test_the_model_derives_what_the_collator_gives(world, variant, see):
    model, samples = world(variant, see, EveryThird(2))
    batch = Collator(0).batch(samples)
    padding = torch.zeros_like(batch["input_ids"])
    for row, sample in zip(padding, samples, strict=True):
        row[: len(sample.tokens)] = 1
    left = {name: value for name, value in batch.items() if name not in ("position_ids", "columns", "kept")}
    assert model(**batch).loss.item() == model(**left, attention_mask=padding).loss.item()
    wrong = {"pixel_values_videos": samples[0].pixel_values, "video_grid_thw": batch["video_grid_thw"][:1]}
    if not see.decides_late:
        wrong = {"kept": batch["kept"][1:]}
    with pytest.raises(UserError, match="video tokens in the sequences against"):
        model(**batch | wrong)


@pytest.mark.parametrize(("variant", "see", "speak"), turns(PARALLEL, SPEAKS))
def test_p2_engines_agree(world, variant, see, speak):
    model, samples = world(variant, see, speak)
    stream = stream_of(samples[0])
    serial = Session(model, stream.prompt, choose=CHOOSE)
    theirs = spoken_by(model, serial, Paced(stream))
    with ThreadWatcher(model) as watcher:
        for gaps in ([0, 1, 3, 0, 9, 2, 1], *([[0] * 7, [9] * 7] if see in SEES[:2] else [])):
            fused = FusedSession(model, stream.prompt, choose=CHOOSE)
            beside = StreamsSession(model, stream.prompt, choose=CHOOSE, watcher=watcher)
            for session in (fused, beside):
                assert spoken_by(model, session, Paced(stream, gaps)) == theirs
                assert fed_positions(session) == fed_positions(serial)
                assert session.seen.num_dropped == serial.seen.num_dropped


def test_p2_a_watcher_in_another_process_agrees(world):
    model, samples = world("overlap", Bright(), WaitK(2))
    stream, settings = stream_of(samples[0]), model.settings
    with ProcessWatcher(partial(hesitant_copy, Copy(model), 0.0)) as watcher:
        for see in (Bright(), Dtd(0.3), Flash(0.5, threshold=0.3)):
            with mock.patch.object(model, "settings", replace(settings, see=see)):
                theirs = spoken_by(model, Session(model, stream.prompt, choose=CHOOSE), Paced(stream))
                beside = TwoDeviceSession(model, stream.prompt, choose=CHOOSE, watcher=watcher)
                assert spoken_by(model, beside, Paced(stream, [0, 1, 3, 0, 9, 2, 1])) == theirs


@pytest.mark.parametrize(("variant", "see"), turns(VARIANTS))
def test_p9_sessions_together_say_what_each_says_alone(world, variant, see):
    model, samples = world(variant, see, EveryThird(2))
    streams = [stream_of(sample) for sample in samples]
    kinds = [FusedSession if VARIANTS[variant].speaks is Speaks.PARALLEL else Session, Session, Session]
    alone = [spoken_by(model, Session(model, s.prompt, choose=CHOOSE), Paced(s)) for s in streams]
    batch, said = Batch(model), {number: [] for number in range(len(streams))}
    for number, (kind, stream) in enumerate(zip(kinds, streams, strict=True)):
        batch.add(number, kind(model, stream.prompt, choose=CHOOSE).run(Paced(stream, [0, 2, 1] * 3)))
    while len(batch):
        for number, event in batch.advance():
            assert not isinstance(event, Ended) or event.error is None
            said[number].append(event)
    assert [plain(events) for events in said.values()] == alone


@pytest.mark.parametrize(("variant", "see"), turns(PARALLEL))
def test_a_window_strikes_out_what_see_drops_and_moves_nothing_else(world, variant, see):
    """What is left stands where it would if nothing had been dropped, in every engine; a state knows it."""
    model, samples = world(variant, see, EveryThird(2))
    stream = stream_of(samples[0])
    answer = stream.answer[:20]
    how = {"keep": Window(vision_s=3, text_sink=2, text_window=5), "choose": Greedy(max_new_tokens=20)}

    def watched_after(step, policy=see, again=False):
        with mock.patch.object(model, "settings", replace(model.settings, see=policy)):
            session, last = (ToldSession(model, stream.prompt, **how).tell(answer) for _ in range(2))
            for _ in drive(model, session.begin()):
                pass
            for number in range(step + 1):
                if again and number == step:
                    last.restore(session.state())
                    last.seen_logits = list(session.seen_logits)
                    session = last
                for _ in drive(model, session.watch(stream.pixels[number], stream.grids[number], number + 0.5)):
                    pass
        return session

    fewer = []
    for step in range(0, 7, 1 if see in SEES[:2] else 3):
        ours, whole = watched_after(step), watched_after(step, ALL)
        kept, everything = ours.cache.tokens[WATCHED], whole.cache.tokens[WATCHED]
        places = everything.position_ids.T.tolist()
        assert [place for place in kept.position_ids.T.tolist() if place not in places] == []
        assert vars(ours.cursor.rule) == vars(whole.cursor.rule) and ours.cursor.placed == whole.cursor.placed
        fewer.append(len(kept) < len(everything))
        assert len(ours.cursor.placed) <= 3 and (fewer[-1] or see in ROWS)
        restored = watched_after(step, again=True)
        assert torch.equal(restored.cache.tokens[WATCHED].position_ids, kept.position_ids)
        assert restored.cursor.placed == ours.cursor.placed
    assert any(fewer)
    serial, fused = (kind(model, stream.prompt, **how) for kind in (Session, FusedSession))
    assert spoken_by(model, fused, Paced(stream)) == spoken_by(model, serial, Paced(stream))


@pytest.mark.parametrize(("variant", "see"), turns(n for n, v in VARIANTS.items() if v.speaks is not Speaks.OFFLINE))
def test_p3_no_peeking(world, variant, see):
    """Later frames change nothing earlier: not what is kept, not a logit, not a token."""
    model, samples = world(variant, see, EveryThird(2))
    stream, runs = stream_of(samples[0]), []
    for change in (False, True):
        if change:
            stream.pixels[4:] = [torch.randn_like(pixels) for pixels in stream.pixels[4:]]
        session = ToldSession(model, stream.prompt, choose=Greedy(max_new_tokens=len(stream.answer))).tell(
            stream.answer
        )
        events = list(drive(model, session.run(Paced(stream))))
        dropped = [event.num_dropped for event in events if isinstance(event, Watched)]
        early = sum(isinstance(event, Spoken) and event.step < 4 for event in events)
        kept = session.cache.tokens[WATCHED]
        runs.append((early, dropped[:4], kept.position_ids[:, kept.step < 4], torch.stack(session.seen_logits)))
    (early, *before, ours), (_, *after, theirs) = runs
    assert early == 6 and before[0] == after[0] and torch.equal(before[1], after[1])
    assert torch.equal(ours[:early], theirs[:early]) and not torch.equal(ours, theirs)


@dataclass(frozen=True)
class Backwards(EverySecond):
    name: ClassVar[str] = "backwards"

    def begin(self):
        return self

    def keep(self, pixels, rows, columns):
        return [1, 0]


def test_what_cannot_be_done_is_refused():
    with pytest.raises(ValueError, match="rising order"):
        Seen(Backwards()).lay(torch.zeros(8, 3), (1, 2))


@pytest.fixture
def in_the_tables(monkeypatch):
    monkeypatch.setitem(SEE, EverySecond.name, EverySecond)
    monkeypatch.setitem(SPEAK, EveryThird.name, EveryThird)


def test_a_policy_in_its_table_is_trained_saved_and_not_contradicted(in_the_tables, tiny_checkpoint, clips, tmp_path):
    argv = ["--variant", "group", "--model-path", str(tiny_checkpoint), "--train-data", str(clips), "--max-steps", "2"]
    argv += ["--output-dir", str(tmp_path / "out"), "--batch-size", "1", "--accumulation", "1", "--num-workers", "0"]
    assert train(argv + ["--see", "every_second", "--speak", "every_third:2"]) == 0
    settings = load(tmp_path / "out", device="cpu").settings
    assert settings.see == EverySecond() and settings.schedule == EveryThird(2)
    saved = json.loads((tmp_path / "out" / "config.json").read_text())["swwatch"]
    assert saved["see"] == "every_second" and saved["schedule"] == "every_third:2"
    for wrong in ({"see": "all"}, {"schedule": "wait-k:2"}):
        with pytest.raises(UserError, match="was trained with"):
            Settings.resolve(saved, **wrong)
    assert Settings.resolve(saved, see="every_second", schedule="every_third:2") == settings


@pytest.mark.parametrize(("saved", "told"), [("all", "every_second is put on x, "), ("every_second", ""), (None, "")])
def test_that_a_policy_is_put_on_a_trained_checkpoint_is_told(in_the_tables, monkeypatch, capsys, saved, told):
    named = {} if saved is None else {"variant": "group", "see": saved}
    monkeypatch.setattr(flags, "saved_settings", lambda path: named)
    monkeypatch.setattr(flags.DeviceFlags, "load", lambda self, path, **more: more)
    assert flags.LoadFlags(see="every_second").load("x")["see"] == "every_second"
    line = capsys.readouterr().err
    assert told in line and line.count("\n") == bool(told)


def test_an_older_checkpoint_sees_all_and_chat_turns_always_do(in_the_tables):
    old = {"variant": "group", "schedule": "wait-k:3", "pixel_budget": "declared"}
    assert Settings.resolve(old).see == ALL and Settings.resolve(old, see="every_second").see == EverySecond()
    assert Settings.resolve(old | {"see": "all"}, see="dtd:0.7").see == Dtd(0.7), (
        "one that needs no training is put on"
    )
    with pytest.raises(UserError, match="livecc sees all tokens of its turns, leave see out"):
        Settings.resolve({"variant": "livecc"}, see="every_second")
    with pytest.raises(UserError, match="Write all, dtd:.* or every_second"):
        Settings.resolve(old, see="most")


@dataclass(frozen=True)
class NewestTwo(Keep):
    """The video of the newest 2 s, and every word."""

    name: ClassVar[str] = "newest_two"
    for_whom: ClassVar[tuple[Speaks, ...]] = (Speaks.PARALLEL, Speaks.TURNS)
    moves: ClassVar[bool] = True

    def shown(self, video):
        return [piece.number for piece in video if piece.start_s >= video[-1].end_s - 2]


@pytest.mark.parametrize("variant", PARALLEL)
def test_a_policy_that_keeps_the_newest_two_seconds_is_a_window_without_limits_for_words(load_tiny, variant):
    loaded = load_tiny(variant)
    stream = random_stream(loaded, [(1, 2), (2, 2)] * 4)
    said = {}
    for keep in (NewestTwo(), Window(2, 99, 99)):
        for kind in (Session, FusedSession):
            session = kind(loaded.model, stream.prompt, choose=CHOOSE, keep=keep)
            said[keep.name, kind.name] = spoken_by(loaded.model, session, Paced(stream)), fed_positions(session)
    assert len(said) == 4 and all(one == said["window", "serial"] for one in said.values())
    plain = Session(loaded.model, stream.prompt, choose=CHOOSE)
    assert spoken_by(loaded.model, plain, Paced(stream)) != said["window", "serial"][0]


def test_the_same_policy_in_chat_turns(load_tiny):
    loaded, held = load_tiny("streamingvlm"), []
    session = begin(loaded, keep=NewestTwo())
    play(session, random_steps(loaded, 5), lambda s: held.append([x.round for x in s.context if x.part is Part.VIDEO]))
    assert held == [[0], [0, 1], [1, 2], [2, 3], [3, 4]]
    assert [x.round for x in session.context if x.part is Part.ANSWER] == [0, 1, 2, 3, 4]
    assert torch.equal(
        session.cache.tokens[WATCHED].position_ids,
        session.policy.place(session.context, 0, 2)[0][:, : len(session.cache.tokens[WATCHED])],
    )
