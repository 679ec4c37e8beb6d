"""Every variant and system says what it said when it was recorded, token for token: see tests/record_tokens.py."""

import platform

import pytest

from tests.helpers.recorded_cases import CASES
from tests.record_tokens import COMMAND, recorded, run_case

RECORDED = recorded()
ENTRIES = RECORDED["cases"]
ANEW = f"the words have changed; where that is meant, record them anew with `{COMMAND}`"


def test_all_cases_are_recorded():
    assert [entry["case"] for entry in ENTRIES] == CASES, f"record them with `{COMMAND}`"


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["case"]["name"])
def test_it_says_what_it_said(load_tiny, entry):
    case, before = entry["case"], entry["record"]
    if draws(case) and platform.machine() != RECORDED["machine"]:
        pytest.skip(f"random numbers were drawn on {RECORDED['machine']}: elsewhere torch may draw others")
    now = run_case(load_tiny, case)
    if case["kind"] == "logits":
        assert now["length"] == before["length"]
        for row, old in zip(now["logits"], before["logits"], strict=True):
            assert row == pytest.approx(old, abs=1e-4, rel=0)
    else:
        assert now == before, ANEW


def draws(case: dict) -> bool:
    """Whether tokens are drawn, not chosen."""
    return any(draws(session) for session in case.get("sessions", [])) or (
        case["kind"] == "turns" and case["sampling"] is not None and case["sampling"]["do_sample"]
    )
