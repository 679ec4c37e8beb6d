"""What a slow or broken connection costs: a bounded amount of memory, and no numbered event."""

import asyncio

import pytest

from swwatch.client.protocol import Ack, Error, Pong, Stats, Watched
from swwatch.serve.outbox import MAX_ERRORS, Outbox


def event(step: int) -> Watched:
    return Watched(step=step, arrival_s=0.0, t_s=0.0)


def ack(frame: int, dropped: int = 0) -> Ack:
    return Ack(frame=frame, taken=True, dropped=dropped, queued=0)


def stats(frames: int) -> Stats:
    zeros = dict.fromkeys(("frames_dropped", "steps_watched", "steps_queued", "tokens", "tokens_per_s"), 0)
    return Stats(frames_in=frames, lag_s=None, frame_rate=0, **zeros)


async def take(outbox: Outbox, count: int) -> list:
    return [await asyncio.wait_for(outbox.next(), 1) for _ in range(count)]


def test_events_come_in_order_with_numbers_without_gaps():
    async def run():
        outbox = Outbox(bound=10, replay=10)
        for step in range(5):
            outbox.put(event(step))
        assert [(one.n, one.step) for one in await take(outbox, 5)] == [(n, n) for n in range(5)]
        assert len(outbox) == 0

    asyncio.run(run())


def test_acks_become_one_that_tells_how_many_and_only_the_newest_stats_are_kept():
    async def run():
        outbox = Outbox(bound=10, replay=10)
        for frame in range(1000):
            outbox.ack(ack(frame, dropped=frame))
            outbox.stats(stats(frame))
            outbox.pong()
        first, second, third = await take(outbox, 3)
        assert (first.frame, first.frames, first.dropped) == (999, 1000, 999)
        assert second.frames_in == 999 and third == Pong()

    asyncio.run(run())


def test_a_reader_that_does_not_read_holds_the_session_back_at_the_bound():
    async def run():
        outbox, put = Outbox(bound=8, replay=4), 0

        async def pump():
            nonlocal put
            while True:
                await outbox.wait_for_space()
                outbox.put(event(put))
                put += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(pump())
        for _ in range(100):
            await asyncio.sleep(0)
        assert put == 8
        assert [one.n for one in await take(outbox, 3)] == [0, 1, 2]
        for _ in range(100):
            await asyncio.sleep(0)
        assert put == 11
        task.cancel()

    asyncio.run(run())


def test_errors_of_a_sender_that_does_not_read_hold_back_its_own_messages():
    async def run():
        outbox = Outbox(bound=8, replay=4)
        for number in range(MAX_ERRORS):
            await outbox.error(Error(code="bad_message", message=str(number)))
        waiting = asyncio.create_task(outbox.error(Error(code="bad_message", message="one more")))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        assert (await take(outbox, 1))[0].message == "0"
        await asyncio.wait_for(waiting, 1)

    asyncio.run(run())


@pytest.mark.parametrize("seen, numbers, missed", [(9, [], 0), (6, [7, 8, 9], 0), (1, [6, 7, 8, 9], 4)])
def test_after_a_break_what_was_not_seen_comes_again_as_far_as_it_is_kept(seen, numbers, missed):
    async def run():
        outbox = Outbox(bound=100, replay=4)
        for step in range(10):
            outbox.put(event(step))
        await take(outbox, 10)
        assert outbox.rewind(seen) == missed
        assert [one.n for one in await take(outbox, len(numbers))] == numbers

    asyncio.run(run())


@pytest.mark.parametrize("seen", [-2, 10, 10**9])
def test_nobody_has_seen_what_was_never_made(seen):
    async def run():
        outbox = Outbox(bound=100, replay=4)
        for step in range(10):
            outbox.put(event(step))
        with pytest.raises(ValueError):
            outbox.rewind(seen)

    asyncio.run(run())


def test_unsent_events_outlive_any_number_of_breaks():
    async def run():
        outbox = Outbox(bound=100, replay=0)
        for step in range(50):
            outbox.put(event(step))
        for _ in range(5):
            outbox.forget_connection()
            assert outbox.rewind(-1) == 0
        assert [one.n for one in await take(outbox, 50)] == list(range(50))

    asyncio.run(run())
