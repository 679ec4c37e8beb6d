"""A long game made of toy clips, its words, a model that comments on it, and a scripted judge."""

import pytest


@pytest.fixture(scope="session")
def games(tmp_path_factory):
    """A folder: eval_all_metadata.jsonl, live.jsonl (events), videos/game.mp4 (toy clips one behind the other)."""
    import av

    from swwatch.toy.world import make_scene, render
    from tests.helpers.toy_game import GAME_S, words_between, write_rows

    folder = tmp_path_factory.mktemp("games")
    (folder / "videos").mkdir()
    with av.open(str(folder / "videos" / "game.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.height, stream.width = make_scene(2, 0).size
        number = index = 0
        while number < GAME_S * 4:
            scene = make_scene(2, index)
            index += 1
            if scene.size != (stream.height, stream.width):
                continue
            for k in range(min(int(scene.duration_s * 4), GAME_S * 4 - number)):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(render(scene, k / 4), format="rgb24")))
                number += 1
        container.mux(stream.encode())
    words = words_between(0, GAME_S)
    words[7] = [words[7][1], words[7][0], words[7][2]]  # as some rows of the public file: start behind end
    write_rows(folder / "eval_all_metadata.jsonl", [{"video": "game.mp4", "content": words}])
    event = {"video": "game.mp4", "video_id": "game", "event_title": "Red against blue", "preasr_text": "they begin"}
    events = [event | {"event_id": i, "begin": 5.0 + i, "end": 11.0 + i, "event_asr_text": "it moves"} for i in (0, 1)]
    write_rows(folder / "live.jsonl", events)
    return folder


@pytest.fixture
def generate(games, tiny_checkpoint):
    """generate(task, output, *flags): runs the program on the toy game from its 10th second on."""
    from swwatch.evaluate.commentary.command import main

    data = {"inf-streams": "eval_all_metadata.jsonl", "livesports-cc": "live.jsonl"}

    def call(task, output, *flags, system="streamingvlm"):
        start = ["--begin", "10", "--save-every", "10"] if task == "inf-streams" else []
        what = ["generate", "--task", task, "--model", tiny_checkpoint, "--system", system, "--output", output]
        where = ["--data", games / data.get(task, ""), "--videos", games / "videos", "--device", "cpu"]
        return main([str(part) for part in [*what, *where, "--max-new-tokens", 3, *start, *flags]])

    return call


@pytest.fixture
def server(monkeypatch):
    from swwatch.judge import client
    from tests.helpers.judge_server import KEY, Endpoint

    monkeypatch.setattr(client, "FIRST_WAIT_S", 0.0)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    for name in ("SWWATCH_JUDGE_MODEL", "SWWATCH_JUDGE_BASE_URL", "SWWATCH_JUDGE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def judge(server):
    """judge(task, run, others, data, *flags): runs the program against the scripted server."""
    from swwatch.evaluate.commentary.command import main

    def call(task, run, others, data, *flags):
        those = [part for other in others for part in ("--other", other)]
        where = ["--data", data, "--base-url", server.url, "--model", "judge", "--retries", "0"]
        return main([str(part) for part in ["judge", run, "--task", task, *those, *where, *flags]])

    return call
