"""How many servers stand behind a door: the rule, and a crowd that comes and goes."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from swwatch.serve.scaling import SPARE, Scale

IDLE_S = 5.0
COUNTS = st.integers(1, 6)


@given(st.integers(0, 300), COUNTS, COUNTS, st.integers(1, 20))
def test_as_many_as_leave_room_for_newcomers_and_no_more(sessions, least, more, places):
    scale = Scale(least, least + more, places)
    wanted = scale.wanted(sessions)
    assert least <= wanted <= scale.most
    assert wanted <= scale.wanted(sessions + 1)
    assert wanted == scale.most or sessions <= wanted * places * (1 - SPARE)
    assert wanted == least or sessions > (wanted - 1) * places * (1 - SPARE)


@dataclass
class Fake:
    """A server that starts, loads for a while, has sessions and ends."""

    name: str
    asleep: bool = True
    runs: bool = False
    up: bool = False
    sessions: int = 0
    held: int = 0
    used_s: float = 0.0

    @property
    def in_use(self) -> bool:
        return bool(self.sessions or self.held)

    def wake(self, now_s: float) -> None:
        assert self.asleep and not self.runs
        self.asleep, self.runs, self.used_s = False, True, now_s

    def rest(self, now_s: float) -> None:
        assert not self.asleep and not self.in_use and now_s - self.used_s > IDLE_S
        self.asleep, self.up = True, False  # and it takes a while to end


EVENTS = st.tuples(
    st.sampled_from(["come", "leave", "load", "end", "upload", "forget", "die", "wait"]), st.integers(0, 9)
)


@given(COUNTS, COUNTS, st.integers(1, 5), st.lists(EVENTS, max_size=60))
def test_a_crowd_never_loses_a_server_that_it_uses_and_in_the_end_the_least_are_left(least, more, places, events):
    scale, now_s = Scale(least, least + more, places, IDLE_S), 0.0
    servers = [Fake(str(number)) for number in range(scale.most)]
    for one in servers[:least]:
        one.wake(now_s)
        one.up = True
    for what, number in [*events, *[("leave", number) for number in range(least + more)], *[("wait", 0)] * 3]:
        now_s += IDLE_S + 1 if what == "wait" else 0.5
        one = servers[number % scale.most]
        if what == "come" and one.up and one.sessions < places:
            one.sessions += 1
        elif what == "upload" and one.up:
            one.held += 1
        elif what == "leave" or what == "die":
            one.sessions, one.held, one.up = 0, 0, one.up and what == "leave"
        elif what == "load":
            one.up = one.up or one.runs and not one.asleep
        elif what == "end":
            one.runs = one.runs and not one.asleep
        elif what == "forget":
            one.held = 0
        used = {one.name for one in servers if one.in_use}
        spare = scale.adjust(servers, now_s)
        awake = [one for one in servers if not one.asleep]
        assert used <= {one.name for one in awake} and least <= len(awake) <= scale.most
        assert len(awake) - sum(not one.asleep for one in spare) <= scale.wanted(sum(one.sessions for one in servers))
    assert len(awake) == least
