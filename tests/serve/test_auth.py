"""Who may come in."""

import pytest

from swwatch.client.address import is_loopback
from swwatch.errors import UserError
from swwatch.serve.auth import AccessRules, check_origins, choose_token

TOKEN = "a-good-token"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.1.2.3"])
def test_a_loopback_address_needs_no_token(host):
    assert is_loopback(host) and choose_token(None, host, waived=False) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", ""])
def test_another_address_needs_a_token_or_a_waiver(host):
    with pytest.raises(UserError, match="--no-token"):
        choose_token(None, host, waived=False)
    assert choose_token(None, host, waived=True) is None
    assert choose_token(TOKEN, host, waived=False) == TOKEN
    assert len(choose_token("auto", host, waived=False)) >= 32


@pytest.mark.parametrize("token", ["short", "with blanks inside", "naïve-token", "a" * 201, "semi;colon"])
def test_a_token_that_cannot_travel_everywhere_is_refused(token):
    with pytest.raises(UserError, match="token"):
        choose_token(token, "127.0.0.1", waived=False)


def test_a_token_and_its_waiver_contradict_each_other():
    with pytest.raises(UserError, match="contradict"):
        choose_token(TOKEN, "127.0.0.1", waived=True)


def test_the_token_is_known_from_header_query_and_subprotocol():
    gate = AccessRules(TOKEN)
    assert gate.knows({"authorization": f"Bearer {TOKEN}"}, {})
    assert gate.knows({"authorization": f"bearer {TOKEN}"}, {})
    assert gate.knows({}, {"token": TOKEN})
    assert gate.knows({}, {}, ["swwatch.v1", f"swwatch.token.{TOKEN}"])
    assert AccessRules(None).knows({}, {})


@pytest.mark.parametrize("shown", ["", TOKEN[:-1], TOKEN + "x", "Ä" + TOKEN, "\udcff"])
def test_another_token_is_not(shown):
    gate = AccessRules(TOKEN)
    assert not gate.knows({"authorization": f"Bearer {shown}"}, {"token": shown}, [f"swwatch.token.{shown}"])
    assert not gate.knows({"authorization": TOKEN}, {}, [TOKEN])


def test_a_page_may_talk_to_its_own_host_and_to_where_it_is_allowed():
    gate = AccessRules(TOKEN, ("https://friend.example",), loopback=False)
    assert gate.welcomes({"host": "box:8000"})
    assert gate.welcomes({"host": "box:8000", "origin": "http://box:8000"})
    assert gate.welcomes({"host": "box:8000", "origin": "https://friend.example"})
    for origin in (
        "http://box:8001",
        "http://evil.example",
        "null",
        "https://friend.example.evil",
        "file://",
        "http://[",
    ):
        assert not gate.welcomes({"host": "box:8000", "origin": origin}), origin
        assert not gate.welcomes({"origin": origin}), origin


def test_a_name_that_was_made_to_lead_here_does_not_help_a_page():
    """DNS rebinding: host and origin agree, and both are the attacker's."""
    gate = AccessRules(None, ("https://proxy.example",), loopback=True)
    assert not gate.welcomes({"host": "evil.example:8000", "origin": "http://evil.example:8000"})
    assert not gate.welcomes({"host": "evil.example:8000"})
    for host in ("localhost:8000", "127.0.0.1:8000", "[::1]:8000", "proxy.example"):
        assert gate.welcomes({"host": host}), host


@pytest.mark.parametrize("origin", ["friend.example", "https://friend.example/", "ftp://x", "*", "https://"])
def test_an_origin_is_written_as_browsers_write_it(origin):
    with pytest.raises(UserError, match="--allow-origin"):
        check_origins([origin])
