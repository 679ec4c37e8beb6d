"""Our sessions as lmms-eval's model, without lmms-eval: scripts/lmms_eval.sh runs them under the real one."""

import sys
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

import pytest

from swwatch.data.video import iter_steps
from swwatch.errors import UserError
from swwatch.narrate.words import narrate
from swwatch.paths import ROOT

MOST = 24  # tokens of an answer


@dataclass
class Request:
    args: tuple


@pytest.fixture
def lmms(monkeypatch):
    """Our module, over stand-ins for the three names that it takes of lmms-eval."""

    class Base:
        rank = 0

        def __init__(self):
            self.cache_hook = type("Hook", (), {"add_partial": lambda *_: None})()

    stand_ins = {"api.model": {"lmms": Base}, "api.instance": {"Instance": Request}}
    stand_ins |= {
        "models.registry_v2": {"ModelManifest": lambda name, **paths: {"id": name, **paths}},
        "api": {},
        "models": {},
    }
    for name, content in stand_ins.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, f"lmms_eval.{name}", module)
    monkeypatch.setitem(sys.modules, "lmms_eval", ModuleType("lmms_eval"))
    monkeypatch.delitem(sys.modules, "swwatch.evaluate.lmms", raising=False)
    yield import_module("swwatch.evaluate.lmms")
    sys.modules.pop("swwatch.evaluate.lmms", None)


@pytest.fixture
def utils(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts" / "lmms_eval")
    yield import_module("utils")
    sys.modules.pop("utils", None)


@pytest.fixture
def sessions(lmms, load_tiny, monkeypatch):
    monkeypatch.setattr(lmms, "load", lambda path, **_: load_tiny("group"))
    made = lmms.Sessions("tiny", batch_size="1", device="cpu")
    made.task_dict = {"task": {"test": {}}}
    return made


def said(load_tiny, clip, question, **options):
    words = narrate(load_tiny("group"), iter_steps(clip, **options), question=question, max_new_tokens=MOST)
    return "".join(token.text for token in words)


def test_a_request_is_a_narration_in_the_order_of_the_requests(sessions, load_tiny, clip):
    sessions.task_dict["task"]["test"] = ["What moves?", "What turns?"]
    how = {"max_new_tokens": MOST, "do_sample": False, "temperature": 0}
    requests = [Request((q, how, lambda doc: [str(clip)], n, "task", "test")) for n, q in enumerate(["A?", "B?"])]
    whole = [said(load_tiny, clip, question) for question in ("A?", "B?")]
    assert whole[0] != whole[1] and sessions.generate_until(requests) == [text.strip() for text in whole]
    (cut,) = sessions.generate_until([Request(("A?", how | {"until": [whole[0][5:8]]}, *requests[0].args[2:]))])
    assert cut == whole[0][: whole[0].index(whole[0][5:8])].strip()


def test_rounds_go_on_until_the_task_ends_them_and_each_sees_its_own_seconds(sessions, utils, load_tiny, clip):
    ask = {"answer": "B", "options": ["A. red", "B. blue"]}
    doc = {"video_path": str(clip), "questions": [ask | {"question": "A?", "time_stamp": "00:00:01"}]}
    doc["questions"].append(ask | {"question": "B?", "time_stamp": "00:00:02"})
    sessions.task_dict["task"]["test"] = [doc]
    how = {"max_new_tokens": 8}
    request = Request((utils.next_question(doc), how, utils.first_shown, utils.next_question, 0, "task", "test"))
    ((first, second),) = sessions.generate_until_multi_round([request])
    assert said(load_tiny, clip, "A?", span=(0, 1)).strip().startswith(first)
    assert said(load_tiny, clip, "B?").strip().startswith(second) and first != second
    assert utils.right_answers(doc, [["It is BLUE.", "red"]]) == {"told": (1, 2)}
    assert utils.share([(1, 2), (2, 2)]) == 0.75


def test_what_a_session_cannot_do_is_refused_with_the_way_out(lmms, sessions, clip):
    shown = [str(clip)]
    for visual, how, told in (([], {}, "one video"), (shown, {"do_sample": True}, "do_sample=False")):
        with pytest.raises(UserError, match=told):
            sessions._answer("A?", visual, how)
    with pytest.raises(UserError, match="swwatch quiz"):
        sessions.loglikelihood([])
    with pytest.raises(UserError, match="leave it at 1"):
        lmms.Sessions("tiny", batch_size=2)
    assert lmms.manifest()["simple_class_path"] == "swwatch.evaluate.lmms.Sessions"
