"""The cases of tests/golden/recorded_tokens.json: small runs of every variant, engine and system, as plain dicts.

A case holds all that its run depends on, beside the tiny checkpoint. See tests.record_tokens for what runs them.
"""

OFFLINE = ["origin", "batch"]
PARALLEL = ["group", "gap", "overlap"]
VARIANTS = [*OFFLINE, "interleave", *PARALLEL]
ENGINES = [(variant, "serial") for variant in VARIANTS] + [
    (variant, engine) for engine in ("fused", "streams") for variant in PARALLEL
]
SCHEDULES = ["wait-k:3", "wait-k:1", "random:3:seed=0", "burst:3:every=2", "stall:2:every=2:pause=1"]
SIZES = [[2, 3], [1, 2], [3, 1]]  # rows and columns after the merge, step by step
QUESTION = [7, 8, 9, 10]


def stream(title: str, variant: str, engine: str, **more) -> dict:
    """A case of a stream of one of the six variants.

    Args:
        title: what it is about.
        more: what differs from the defaults below, and: late_end (no step is marked as the last), gaps, told (see
            record_tokens), stop_early, window (seconds, first and last words), load (options of load_tiny).
    """
    return {
        "name": f"{variant} {engine} {title}",
        "kind": "stream",
        "variant": variant,
        "engine": engine,
        "schedule": "wait-k:3",
        "seed": 29,
        "count": 7,
        "sizes": SIZES,
        "max_new_tokens": 24,
        "penalty": 1.15,
    } | more


def streams() -> list[dict]:
    """Streams by themselves."""
    cases = []
    for variant, engine in ENGINES:
        cases += [stream(schedule, variant, engine, schedule=schedule) for schedule in SCHEDULES]
        late = {"late_end": True, "gaps": [0, 2, 1], "seed": 44}
        cases += [
            stream("ends late", variant, engine, **late),
            stream("is asked", variant, engine, told=[[3, QUESTION]], gaps=[0, 1], seed=1),
        ]
        if engine != "streams":
            cases.append(stream("without a penalty", variant, engine, penalty=1.0, seed=2))
        if variant in PARALLEL and engine != "streams":
            cases += endless(variant, engine)
    cases += [
        stream(
            "begins a new answer when asked", variant, engine, max_new_tokens=4, told=[[4, QUESTION], [4, [11, 12]]]
        )
        for variant, engine in (
            ("interleave", "serial"),
            ("group", "serial"),
            ("gap", "fused"),
            ("overlap", "streams"),
        )
    ]
    cases += [
        stream("pauses", variant, engine, told=[[2, "pause"], [4, "resume"]])
        for variant, engine in (("interleave", "serial"), ("overlap", "serial"), ("overlap", "fused"))
    ]
    cases += [
        stream("ends early and is asked", variant, engine, stop_early=True, seed=seed, told=[[5, QUESTION]])
        for variant, engine, seed in (
            ("interleave", "serial", 9),
            ("group", "serial", 1),
            ("group", "fused", 1),
            ("gap", "streams", 13),
            ("gap", "fused", 13),
        )
    ]
    return [
        *cases,
        stream("stops", "group", "serial", told=[[4, "stop"]]),
        stream("in eager attention", "group", "fused", load={"attention": "eager"}),
        stream("in eager attention", "interleave", "serial", load={"attention": "eager"}),
        stream("in a second process", "overlap", "two_device", told=[[3, QUESTION]]),
    ]


def endless(variant: str, engine: str) -> list[dict]:
    """Streams that forget."""
    small = {"window": [2, 2, 4], "count": 8, "max_new_tokens": 30}
    return [
        stream("forgets", variant, engine, **small),
        stream("forgets at random paces", variant, engine, schedule="random:3:seed=0", gaps=[0, 1], seed=1, **small),
        stream("forgets and is asked", variant, engine, told=[[3, QUESTION], [6, [11, 12]]], seed=2, **small),
    ]


def together() -> list[dict]:
    """Sessions of different prompts, paces and lengths that share a batch."""
    cases = []
    for variant, engine in (("group", "fused"), ("overlap", "serial"), ("interleave", "serial"), ("origin", "serial")):
        sessions = [
            stream("1", variant, engine, seed=11),
            stream("2", variant, engine, seed=12, schedule="wait-k:1", count=4, max_new_tokens=9),
            stream("3", variant, engine, seed=13, schedule="random:3:seed=0", told=[[2, QUESTION]], sizes=[[1, 3]]),
            stream("4", variant, engine, seed=14, schedule="burst:3:every=2", gaps=[0, 2, 1], penalty=1.0),
        ]
        if variant in PARALLEL:
            sessions[2]["window"] = [2, 2, 4]
        cases.append(batch(f"{variant} {engine} four in a batch", variant, sessions))
    talks = [
        turns("1", "streamingvlm", seed=15, windows=SMALL),
        turns("2", "streamingvlm", windows=SMALL, told=[[2, "Now what"]], **DRAWN | {"seed": 16}),
        turns("3", "streamingvlm", seed=17, count=4, sizes=[[1, 3], [2, 1]]),
    ]
    return [*cases, batch("streamingvlm three in a batch", "streamingvlm", talks)]


def batch(name: str, variant: str, sessions: list[dict]) -> dict:
    """A case of sessions of one variant, fewer of them at once than there are."""
    return {
        "name": name,
        "kind": "batch",
        "variant": variant,
        "at_once": len(sessions) - 1,
        "sessions": [without_name(session) for session in sessions],
    }


def without_name(case: dict) -> dict:
    return {key: value for key, value in case.items() if key not in ("name", "script")}


# ---- chat turns -----------------------------------------------------------------------------------------------------

SMALL = {"vision_s": 3, "turns_s": 3, "text_sink": 4, "text_window": 6}
UNEVEN = {"vision_s": 2, "turns_s": 4, "text_sink": 3, "text_window": 5}
BRIEF = {"vision_s": 4, "turns_s": 2, "text_sink": 3, "text_window": 5}
GREEDY = {"max_new_tokens": 5, "do_sample": False, "temperature": 1.0, "repetition_penalty": 1.05}
HOT = {"max_new_tokens": 16, "do_sample": True, "temperature": 0.9, "repetition_penalty": 1.05}
DRAWN = {"sampling": HOT, "choosing": {"top_k": 50, "top_p": 0.95}, "seed": 0}
TALK = [
    ["watch", 6, [[3, "Now what"]]],
    ["answer", "What was red", 6],
    ["probe", "Is it over", [40, 41]],
    ["keep"],
    ["watch", 4, []],
    ["go back"],
    ["watch", 4, [[2, "And now"]]],
]


def turns(title: str, system: str, **more) -> dict:
    """A case of a stream in chat turns.

    Args:
        title: what it is about.
        more: what differs from the defaults below, and: eviction, windows, policy (by default the system's own),
            choosing (top_k, top_p and the threshold of silence), query, previous, steps_per_turn, told (in a batch).
            A sampling of None is the system's own, which the checkpoint narrows to the best token.
    """
    return {
        "name": f"{system} {title}",
        "kind": "turns",
        "variant": system,
        "seed": 4,
        "count": 10,
        "sizes": [[2, 3]],
        "sampling": GREEDY,
        "script": TALK,
    } | more


def talks() -> list[dict]:
    """Streams in chat turns by themselves, with every way to forget and every rule of positions."""
    ways = [
        ("streamingvlm", "slides", {"windows": SMALL}),
        ("streamingvlm", "slides, words longer", {"windows": UNEVEN}),
        ("streamingvlm", "slides, video longer", {"windows": BRIEF, "sizes": SIZES}),
        ("streamingvlm", "slides and counts on", {"windows": SMALL, "policy": "mrope_append"}),
        ("streamingvlm", "keeps all", {"eviction": "append", "policy": "mrope_append"}),
        ("streamingvlm", "reads anew", {"windows": SMALL, "eviction": "recompute"}),
        ("streamingvlm", "restarts", {"windows": {"vision_s": 3}, "eviction": "restart"}),
        ("streamingvlm", "flushes", {"windows": {"flush_s": 4}, "eviction": "flush"}),
        ("livecc", "flushes", {"windows": {"flush_s": 5}}),
        ("livecc", "flushes, in its demo's positions", {"windows": {"flush_s": 5}, "policy": "livecc_compat"}),
        ("livecc", "flushes, in plain positions", {"windows": {"flush_s": 5}, "policy": "flat_1d"}),
        ("livecc", "keeps all", {"eviction": "append"}),
        ("livecc", "slides", {"windows": SMALL, "eviction": "sink_window", "policy": "mrope_contiguous"}),
        ("livecc", "reads anew", {"windows": SMALL, "eviction": "recompute"}),
        ("livecc", "restarts", {"windows": {"vision_s": 4}, "eviction": "restart"}),
    ]
    cases = []
    for system, title, more in ways:
        cases.append(turns(f"{title}, greedy", system, **more))
        cases.append(turns(f"{title}, drawn", system, **more | DRAWN))
    return [
        *cases,
        turns("chooses in its own way", "streamingvlm", windows=SMALL, sampling=None, seed=0),
        turns("chooses in its own way", "livecc", windows={"flush_s": 5}, sampling=None, seed=0),
        turns("has said words before", "streamingvlm", windows=SMALL, previous=" He has the ball again and again"),
        turns("takes two seconds a turn", "streamingvlm", windows=BRIEF, steps_per_turn=2, query="Go"),
        turns(
            "meets other sizes",
            "livecc",
            windows={"flush_s": 5},
            sizes=[[2, 2], [2, 2], [1, 3], [1, 3], [1, 3], [3, 1]],
        ),
        turns(
            "is slow to fall silent",
            "livecc",
            windows={"flush_s": 5},
            seed=5,
            sampling=HOT,
            script=[["watch", 10, []]],
            choosing={"top_k": 50, "threshold_base": 0.02, "threshold_step": 0.002},
        ),
        turns("is silent for a while", "livecc", script=[["watch", 9, [[4, "pause"], [6, "resume"]]]]),
    ]


def logits() -> list[dict]:
    """One forward over a whole sample, in the training layout of each variant."""
    ids = [0, 3, 41, 97, 128, 199]
    return [
        {
            "name": f"{variant} logits of {schedule}",
            "kind": "logits",
            "variant": variant,
            "schedule": schedule,
            "seed": 5,
            "count": 6,
            "sizes": SIZES,
            "ids": ids,
        }
        for variant in VARIANTS
        for schedule in ("wait-k:3", "random:3:seed=0")
    ]


CASES = [*streams(), *together(), *talks(), *logits()]
