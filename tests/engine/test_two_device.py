"""A watcher in a process of its own: the same words, and nothing left behind, however either side ends."""

import os
import signal
import time
from functools import partial

import psutil
import pytest
import torch

from swwatch.engine.batch import Batch, Ended
from swwatch.engine.beside import TwoDeviceSession
from swwatch.engine.requests import Look, drive
from swwatch.engine.session import Session
from swwatch.engine.source import Ask
from swwatch.engine.trace import Reflected, Spoken
from swwatch.engine.two_device import Copy, DeviceWatcher, ProcessWatcher, second_device
from swwatch.engine.watcher import WatcherError, Work
from swwatch.errors import UserError
from swwatch.policies.choose import Greedy
from swwatch.policies.speak import RandomK, WaitK, parse_schedule
from swwatch.policies.think import Notes
from swwatch.rules.variants import Speaks, speaking
from tests.helpers.forked import Forked
from tests.helpers.streams import Paced, ToldSession, fed_positions, plain, random_stream, spoken_by
from tests.helpers.watcher_work import hesitant_copy, no_model, work_of
from tests.policies.test_deciding import LEARNED, opened, played, scenes

PARALLEL = speaking(Speaks.PARALLEL)
SIZES = [(2, 3)] * 5
PATIENCE_S = 120  # for things that take no time at all on a machine that is not busy


@pytest.fixture(scope="module")
def watcher(load_tiny):
    """One process for this module. Watched rows are those of overlap; the three variants differ in positions alone,
    which come with the work."""
    with ProcessWatcher(partial(hesitant_copy, Copy(load_tiny("overlap").model), 0.002)) as shared:
        yield shared


@pytest.mark.parametrize("schedule", [WaitK(3), RandomK(2, seed=4)], ids=str)
@pytest.mark.parametrize("variant", PARALLEL)
def test_p2_it_says_what_serial_says(load_tiny, watcher, variant, schedule):
    """And feeds the same tokens, once (P4), with a question in mid-stream, whenever steps arrive."""
    loaded = load_tiny(variant)
    for seed, gaps in enumerate(([0] * 6, [0, 1, 3, 0, 9, 2])):
        stream = random_stream(loaded, [(1 + seed, 2), (2, 3), (3, 1)] * 2, 3 + seed, 0, seed)
        options = {"schedule": schedule, "choose": Greedy(max_new_tokens=24)}
        orders = {3: [Ask((5, 6, 7), "?")]}
        serial = Session(loaded.model, stream.prompt, **options)
        beside = TwoDeviceSession(loaded.model, stream.prompt, watcher=watcher, **options)
        theirs = spoken_by(loaded.model, serial, Paced(stream, None, orders, late_end=bool(seed)))
        assert spoken_by(loaded.model, beside, Paced(stream, gaps, orders, late_end=bool(seed))) == theirs
        assert beside.cache.num_fed == serial.cache.num_fed and fed_positions(beside) == fed_positions(serial)
        assert len(beside.watch_seconds) == 6 + seed and all(second.prefill_s > 0 for second in beside.watch_seconds)


@pytest.mark.parametrize("text", LEARNED)
def test_p2_what_the_model_itself_decides_is_decided_over_there(load_tiny, watcher, text):
    """In the process by the likelihood of another picture, on a device of its own by a head that is copied, too."""
    loaded = load_tiny("group", schedule=text.rpartition(":")[0])
    stream, how = scenes(loaded), {"choose": Greedy(1.0, 3)}
    words, decided = played(loaded.model, opened(Session, loaded, stream, text, **how), stream)
    with DeviceWatcher(loaded.model, "cpu") as device:
        there = device if parse_schedule(text).has_head else watcher
        session = opened(partial(TwoDeviceSession, watcher=there), loaded, stream, text, **how)
        got, theirs = played(loaded.model, session, stream)
    assert got == words and [row[:2] for row in theirs] == [row[:2] for row in decided]
    assert {tokens == 0 for _, tokens, _ in decided} == {True, False}
    for (*_, ours), (*_, why) in zip(theirs, decided, strict=True):
        assert ours == pytest.approx(why, rel=1e-5) and 0 < why["not_yet"] < 1


@pytest.mark.parametrize("variant", PARALLEL)
def test_p2_it_thinks_and_says_what_serial_does(load_tiny, watcher, variant):
    """Thoughts are fed with the words, on this side; what they see has been watched in the other process."""
    loaded, told = load_tiny(variant), []
    stream = random_stream(loaded, [(1, 2), (2, 3), (3, 1)] * 2, 3, 0, 5)
    options = {"choose": Greedy(1.1, 20), "think": Notes(2, limit=5)}
    serial = Session(loaded.model, stream.prompt, **options)
    beside = TwoDeviceSession(loaded.model, stream.prompt, watcher=watcher, **options)
    for session, gaps in ((serial, None), (beside, [0, 2, 0, 5, 1, 0])):
        source = Paced(stream, gaps, {3: [Ask((5, 6, 7), "?")]})
        events = [e for e in drive(loaded.model, session.run(source)) if isinstance(e, Spoken | Reflected)]
        told.append(sorted([(e.step, type(e).__name__, e.token_id, e.t_frame_s) for e in events], key=lambda e: e[:2]))
    assert told[0] == told[1] and len(told[0]) == 20 + (2 + 2 + 1) + (2 + 2)
    assert beside.cache.num_fed == serial.cache.num_fed and fed_positions(beside) == fed_positions(serial)


def test_p3_no_peeking_while_the_next_frame_is_watched(load_tiny, watcher):
    class Told(TwoDeviceSession):
        tell, _choose = ToldSession.tell, ToldSession._choose

    loaded, seen = load_tiny("group"), []
    before, after = random_stream(loaded, SIZES), random_stream(loaded, SIZES)
    after.pixels[3] = after.pixels[3] + 1.0
    for stream in (before, after):
        session = Told(loaded.model, stream.prompt, choose=Greedy(max_new_tokens=20), watcher=watcher).tell(
            stream.answer
        )
        spoken_by(loaded.model, session, Paced(stream))
        seen.append(torch.stack(session.seen_logits))
    assert torch.equal(seen[0][:9], seen[1][:9]) and bool((seen[0][9:] != seen[1][9:]).any(dim=1).all())


def test_sessions_in_a_batch_share_the_process(load_tiny, watcher):
    loaded = load_tiny("gap")
    streams = [random_stream(loaded, [(2, 2)] * (2 + i), answer_len=0, seed=i) for i in range(3)]
    options = {"choose": Greedy(max_new_tokens=16)}
    batch, events = Batch(loaded.model), []
    watcher.listen(batch.wake)
    for i, stream in enumerate(streams):
        session = TwoDeviceSession(loaded.model, stream.prompt, watcher=watcher, **options)
        events += batch.add(i, session.run(Paced(stream)))
    while len(batch):
        events += batch.advance()
        if len(batch) and batch.is_idle():
            batch.wait(PATIENCE_S)
    for i, stream in enumerate(streams):
        alone = spoken_by(loaded.model, Session(loaded.model, stream.prompt, **options), Paced(stream))
        assert plain(event for key, event in events if key == i) == alone
    assert [event for _, event in events if isinstance(event, Ended)] == [Ended()] * 3


def test_an_exception_in_the_process_is_raised_in_the_session_it_belongs_to(load_tiny, watcher):
    loaded = load_tiny("group")
    good, bad = (work_of(loaded, random_stream(loaded, SIZES, seed=seed)) for seed in range(2))
    keys = watcher.open(), watcher.open()
    look = bad[1].parts[0]
    bad[1] = Work(bad[1].rows, (Look(look.pixel_values[:-3], look.grid_thw),))
    tickets = [[watcher.submit(key, works[i]) for key, works in zip(keys, (good, bad), strict=True)] for i in range(3)]
    with pytest.raises(RuntimeError) as caught:
        tickets[1][1].take()
    assert "_watch" in str(caught.value.__cause__), "where it went wrong over there is told"
    with pytest.raises(WatcherError, match="earlier step of this session"):
        tickets[2][1].take()
    assert [len(ours.take().rows) for ours, _ in tickets] == [5, 6, 6]
    for key in keys:
        watcher.forget(key)


def test_what_was_handed_over_is_not_in_shared_memory_nor_is_what_was_given(load_tiny, watcher):
    """Shared memory is scarce in containers, and each piece of it is an open file."""
    loaded = load_tiny("group")
    pieces, key = work_of(loaded, random_stream(loaded, [(2, 3)] * 12)), watcher.open()
    files = []
    for work in pieces:
        result = watcher.submit(key, work).take()
        assert not result.keys_values.is_shared()
        assert not any(part.pixel_values.is_shared() for part in work.parts if isinstance(part, Look))
        files.append(psutil.Process().num_fds() + psutil.Process(watcher.pid).num_fds())
    assert files[-1] <= files[2] + 4, "open files must not grow with every step"
    watcher.forget(key)


def test_a_process_that_dies_ends_its_sessions_with_a_clear_error_and_no_other(load_tiny, watcher):
    loaded = load_tiny("group")
    stream = random_stream(loaded, SIZES, answer_len=0)
    with ProcessWatcher.of(loaded.model) as mortal:
        told, other = (
            drive(loaded.model, TwoDeviceSession(loaded.model, stream.prompt, watcher=w).run(Paced(stream)))
            for w in (mortal, watcher)
        )
        for run in (told, other):
            while not isinstance(next(run), Spoken):
                pass
        os.kill(mortal.pid, signal.SIGKILL)
        with pytest.raises(WatcherError, match="process ended by itself"):
            list(told)
        with pytest.raises(WatcherError, match="process ended by itself"):
            list(drive(loaded.model, TwoDeviceSession(loaded.model, stream.prompt, watcher=mortal).run(Paced(stream))))
        other.close()
    assert gone(mortal.pid)


def test_what_goes_wrong_while_the_model_is_made_is_told_and_leaves_no_process(tiny_checkpoint):
    before = children()
    with pytest.raises(ArithmeticError, match="no such model"):
        ProcessWatcher(no_model)
    assert children() <= before


@pytest.mark.slow
def test_a_checkpoint_is_loaded_in_the_process(load_tiny, tiny_checkpoint):
    from swwatch.model.loading import load

    loaded = load(tiny_checkpoint, variant="group", device="cpu")
    stream = random_stream(loaded, SIZES, answer_len=0)
    theirs = spoken_by(loaded.model, Session(loaded.model, stream.prompt), Paced(stream))
    with ProcessWatcher.load(tiny_checkpoint, variant="group") as watcher:
        session = TwoDeviceSession(loaded.model, stream.prompt, watcher=watcher)
        assert spoken_by(loaded.model, session, Paced(stream)) == theirs
    with pytest.raises(UserError, match="no checkpoint at"):
        ProcessWatcher.load(tiny_checkpoint.parent / "missing")
    assert gone(watcher.pid)


def parent(checkpoint, told):
    """In a process of its own: tells its watcher's process id, and fails when that is taken away."""
    with ProcessWatcher.load(checkpoint, variant="group") as watcher:
        told.with_suffix(".part").write_text(str(watcher.pid))
        told.with_suffix(".part").rename(told)
        while told.exists():
            time.sleep(0.02)
        raise ValueError("a session failed")


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, "error"], ids=str)
def test_no_process_is_left_behind(tiny_checkpoint, tmp_path, end):
    """Killed, terminated, interrupted as a terminal does it (the whole group), or left over an error."""
    told = tmp_path / "watcher"
    process = Forked(parent, tiny_checkpoint, told)
    try:
        assert patiently(lambda: told.exists() or not process.alive) and process.alive
        pid = int(told.read_text())
        assert psutil.Process(pid).ppid() == process.pid
        if end == "error":
            told.unlink()
        elif end == signal.SIGINT:
            os.killpg(process.pid, end)
        else:
            os.kill(process.pid, end)
        done = process.end(PATIENCE_S)
        assert done.returncode != 0 and gone(pid)
        if end == "error":
            assert "a session failed" in done.stderr
        elif end == signal.SIGINT:
            assert "KeyboardInterrupt" in done.stderr and "BrokenProcessPool" not in done.stderr
    finally:
        process.kill()


def test_the_watcher_of_this_machine(load_tiny, monkeypatch):
    class OnOneGpu:
        device = torch.device("cuda", 0)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="needs a second GPU"):
        second_device(OnOneGpu())
    model = load_tiny("group").model
    monkeypatch.setattr(ProcessWatcher, "of", lambda *args, **options: (args, options))
    assert second_device(model, threads=3) == ((model,), {"threads": 3}), "a process, where the model is on a CPU"


def gone(pid: int) -> bool:
    """Whether a process ends soon; a zombie that nobody has waited for counts as ended."""

    def ended() -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return patiently(ended)


def patiently(condition) -> bool:
    """Whether it comes true."""
    deadline = time.monotonic() + PATIENCE_S
    while not (true := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return true


def children() -> set[int]:
    """Process ids of all that this one has started, but for the one that keeps account of shared memory."""
    started = psutil.Process().children(recursive=True)
    return {child.pid for child in started if "resource_tracker" not in " ".join(child.cmdline())}
