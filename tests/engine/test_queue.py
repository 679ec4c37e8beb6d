"""The queue between a sender and a session: order, counts and bounds under every policy, from one thread or many."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.data.video import StepFrames
from swwatch.engine.queue import POLICIES, StepQueue, merge
from swwatch.engine.source import Ask, Order, Step
from swwatch.errors import UserError

PATIENCE_S = 20  # what a thread may take at the most; passing takes no time


def frames(number, last=False, size=(2, 2)):
    """A step whose frames tell its number: 2n and 2n + 1."""
    pictures = [np.full((*size, 3), 2 * number + i, np.uint8) for i in range(2)]
    return StepFrames(number, np.stack(pictures), number + 0.5, last)


def encode(step):
    return Step(
        torch.from_numpy(step.frames.reshape(2, -1)[:, :1].copy()),
        torch.tensor([[1, 2, 2]]),
        step.arrival_s,
        step.last,
    )


def numbers(step):
    return tuple(step.pixel_values[:, 0].tolist())


def queue_of(size=3, policy="drop_oldest", **options):
    return StepQueue(size, policy, encode=encode, **options)


def drain(queue):
    steps = []
    while (step := queue.poll()) is not None:
        steps.append(step)
    return steps


def in_thread(work):
    """Run `work` in a thread; `finish()` waits for it, bounded, and gives its result."""
    result = []
    thread = threading.Thread(target=lambda: result.append(work()), daemon=True)
    thread.start()

    def finish():
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "it waits for ever"
        return result[0]

    finish.is_waiting = thread.is_alive
    return finish


def test_drop_oldest_keeps_the_newest_steps():
    queue = queue_of(2)
    assert all(queue.put(frames(i)) for i in range(5)) and len(queue) == 2
    assert [numbers(step) for step in drain(queue)] == [(6, 7), (8, 9)]
    assert (queue.counts.dropped, queue.counts.taken, queue.counts.merged) == (3, 2, 0)


def test_merge_makes_one_step_of_the_two_oldest():
    queue = queue_of(2, "merge")
    for i in range(3):
        queue.put(frames(i))
    first, second = drain(queue)
    assert numbers(first) == (0, 3) and first.arrival_s == 1.5 and numbers(second) == (4, 5)
    assert (queue.counts.merged, queue.counts.dropped) == (1, 0)
    assert merge(frames(0), frames(1, last=True)).last


def test_merging_two_sizes_keeps_the_newer():
    merged = merge(frames(0), frames(1, size=(4, 6)))
    assert merged.frames.shape == (2, 4, 6, 3) and merged.frames[0].flat[0] == 3


def test_block_refuses_what_finds_no_room_in_time():
    queue = queue_of(1, "block")
    assert queue.put(frames(0), timeout_s=0) and not queue.put(frames(1), timeout_s=0.01)
    assert queue.counts.refused == 1
    assert numbers(queue.poll()) == (0, 1) and queue.put(frames(2), timeout_s=0)


def test_a_blocked_sender_goes_on_when_a_step_is_taken():
    queue = queue_of(1, "block")
    queue.put(frames(0))
    sent = in_thread(lambda: queue.put(frames(1)))
    assert numbers(queue.poll()) == (0, 1)
    assert sent() and numbers(queue.poll()) == (2, 3)


@pytest.mark.parametrize("end", ["end", "close"])
def test_a_blocked_sender_is_refused_when_the_queue_ends(end):
    queue = queue_of(1, "block")
    queue.put(frames(0))
    sent = in_thread(lambda: queue.put(frames(1)))
    getattr(queue, end)()
    assert sent() is False and queue.counts.refused == 1


def test_pixels_are_computed_for_steps_that_are_watched_alone():
    encoded = []
    queue = StepQueue(2, "drop_oldest", encode=lambda step: encoded.append(step.step) or encode(step))
    for i in range(6):
        queue.put(frames(i))
    assert encoded == []
    drain(queue)
    assert encoded == [4, 5]


def test_ready_steps_need_no_encoder_and_are_handed_out_as_they_are():
    queue, step = StepQueue(), encode(frames(0))
    queue.put(step)
    assert queue.poll() is step
    with pytest.raises(ValueError, match="need an encode"):
        queue.put(frames(1))
    with pytest.raises(ValueError, match="merging needs frames"):
        queue_of(2, "merge").put(step)


def test_the_end_comes_after_the_queued_steps_and_marks_none_of_them():
    queue = queue_of()
    queue.put(frames(0))
    queue.end()
    assert not queue.ended and not queue.put(frames(1))
    assert queue.poll().last is False
    assert queue.ended and queue.poll() is None


def test_a_step_marked_as_the_last_ends_the_queue():
    queue = queue_of(1)
    queue.put(frames(0))
    queue.put(frames(1, last=True))
    assert not queue.put(frames(2)) and not queue.ended
    assert queue.poll().last and queue.ended


def test_a_failure_is_raised_once_after_the_steps_before_it():
    queue = queue_of()
    queue.put(frames(0))
    queue.fail(UserError("the camera is gone"))
    queue.end()  # too late to hide it
    assert numbers(queue.poll()) == (0, 1) and not queue.ended
    with pytest.raises(UserError, match="the camera is gone"):
        queue.poll()
    assert queue.ended and queue.poll() is None


def test_what_the_encoder_raises_is_raised_by_poll_and_the_others_are_kept():
    def picky(step):
        if step.step == 0:
            raise UserError("too narrow")
        return encode(step)

    queue = StepQueue(encode=picky)
    queue.put(frames(0))
    queue.put(frames(1))
    with pytest.raises(UserError, match="too narrow"):
        queue.poll()
    assert numbers(queue.poll()) == (2, 3)


def test_orders_are_handed_out_once_in_order_at_any_time():
    queue, told = queue_of(), [Order.PAUSE, Ask((1, 2), "and now?"), Order.RESUME, Order.STOP]
    for order in told:
        queue.tell(order)
    queue.end()
    assert queue.orders() == told and queue.orders() == []


@pytest.mark.parametrize("news", ["put", "tell", "end", "fail"])
def test_everything_new_wakes_who_waits(news):
    give = {
        "put": lambda queue: queue.put(frames(0)),
        "tell": lambda queue: queue.tell(Order.PAUSE),
        "end": lambda queue: queue.end(),
        "fail": lambda queue: queue.fail(UserError("gone")),
    }[news]
    calls = []
    queue = queue_of(notify=lambda: calls.append(len(queue)))  # without the lock: this would hang
    queue.wait(0.01)  # nothing new: the time is over
    waited = in_thread(queue.wait)
    give(queue)
    waited()
    queue.wait()  # still new
    assert len(calls) == 1


def test_closing_lets_go_of_what_is_queued():
    queue = queue_of()
    queue.put(frames(0))
    queue.put(frames(1))
    queue.fail(UserError("gone"))
    queue.close()
    assert queue.ended and queue.poll() is None and len(queue) == 0 and queue.counts.dropped == 2


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(list(POLICIES)),
    st.integers(1, 4),
    st.lists(st.sampled_from(["put", "put", "put", "poll", "end"]), max_size=60),
)
def test_any_interleaving_keeps_order_counts_and_bound(policy, size, moves):
    queue, sent, taken = queue_of(size, policy), [], []
    for number, move in enumerate(moves):
        if move == "put":
            has_room, ended = len(queue) < size, "end" in moves[:number]
            accepted = queue.put(frames(number), timeout_s=0)
            assert accepted == (not ended and (has_room or policy != "block"))
            sent += [number] * accepted
        elif move == "end":
            queue.end()
        elif (step := queue.poll()) is not None:
            taken.append(step)
        assert len(queue) <= size
        counts = queue.counts
        assert len(sent) == counts.taken + counts.dropped + counts.merged + len(queue)
        assert counts.refused == moves[: number + 1].count("put") - len(sent)
    taken += drain(queue)
    assert queue.counts.taken == len(taken)
    firsts, seconds = ([numbers(step)[i] // 2 for step in taken] for i in range(2))
    assert seconds == sorted(set(seconds)) and set(seconds) <= set(sent)
    assert [step.arrival_s for step in taken] == [number + 0.5 for number in seconds]
    if policy == "block":
        assert firsts == seconds == sent
    elif policy == "drop_oldest":
        assert firsts == seconds and seconds[-size:] == sent[-len(seconds) :][-size:]
    else:  # every second that was sent lies within one step, whose first frame is the first of them
        assert firsts == [
            after for after, _ in zip(sent[:1] + [_next(sent, s) for s in seconds], seconds, strict=False)
        ]
    assert not sent or seconds[-1] == sent[-1]  # the newest is never lost


def _next(sent, number):
    return sent[min(sent.index(number) + 1, len(sent) - 1)]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", [1, 3])
def test_many_senders_and_a_session_lose_no_wake_up(policy, size):
    queue, num_senders, num_each = queue_of(size, policy), 3, 40

    def send(sender):
        return sum(queue.put(frames(sender * num_each + i), PATIENCE_S) for i in range(num_each))

    def watch():
        taken, told = [], 0
        while not queue.ended:
            queue.wait(PATIENCE_S)
            step, orders = queue.poll(), queue.orders()
            assert step is not None or orders or queue.ended, "woken for nothing, or not woken"
            assert len(queue) <= size
            taken += [] if step is None else [step.arrival_s - 0.5]
            told += len(orders)
        return taken, told + len(queue.orders())

    watched = in_thread(watch)
    senders = [in_thread(lambda i=i: send(i)) for i in range(num_senders)]
    tellers = [in_thread(lambda: [queue.tell(Order.PAUSE) for _ in range(20)])]
    accepted = sum(finish() for finish in senders)
    for finish in tellers:
        finish()
    queue.end()
    taken, told = watched()
    counts = queue.counts
    assert accepted == num_senders * num_each == len(taken) + counts.dropped + counts.merged and told == 20
    assert policy != "block" or len(taken) == accepted
    for sender in range(num_senders):
        own = [number for number in taken if number // num_each == sender]
        assert own == sorted(own)


def test_impossible_queues_are_refused():
    with pytest.raises(UserError, match="at least one step"):
        StepQueue(0)
    with pytest.raises(UserError, match="block, drop_oldest, merge"):
        StepQueue(2, "drop")
