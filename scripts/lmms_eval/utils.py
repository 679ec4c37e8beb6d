"""Pure functions of the task file beside."""


def shown(doc: dict, number: int) -> list[str]:
    """The video up to a question's second, as a media fragment."""
    hours, minutes, seconds = doc["questions"][number]["time_stamp"].split(":")
    return [f"{doc['video_path']}#t=0,{3600 * int(hours) + 60 * int(minutes) + int(seconds)}"]


def first_shown(doc: dict, lmms_eval_specific_kwargs=None) -> list[str]:
    """What the first question is about."""
    return shown(doc, 0)


def next_question(
    doc: dict, lmms_eval_specific_kwargs=None, previous_output=None, round_idx=None, previous_round_info=None
):
    """The first question; or, in later rounds, (what is shown, question, whether it is over, answers so far, None)."""
    if round_idx is None:
        return doc["questions"][0]["question"]
    if round_idx == len(doc["questions"]):
        return None, None, True, previous_output, None
    return shown(doc, round_idx), doc["questions"][round_idx]["question"], False, previous_output, None


def right_answers(doc: dict, results: list) -> dict:
    """How many answers say the words of the right option."""
    (said,) = results
    assert len(said) == len(doc["questions"]), (said, doc)
    options = [next(text for text in one["options"] if text.startswith(one["answer"]))[3:] for one in doc["questions"]]
    right = sum(option.lower() in answer.lower() for option, answer in zip(options, said, strict=True))
    return {"told": (right, len(options))}


def share(counts: list) -> float:
    """Over all videos."""
    return sum(right for right, _ in counts) / sum(asked for _, asked in counts)
