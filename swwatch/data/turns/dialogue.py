"""Records of Think-While-Watching as conversations: one JSON object a line, as its public sample file has them.

Fields: video; conversations, a list of {"from": "human", "timestamps": seconds, "value": question} and {"from": "gpt",
"value": answer}; metadata.segment_info, a list of {"start", "end"} in seconds. The public sample has no notes. Here an
answer with `timestamps` of its own, which no question precedes, is the note of the segment that ends there.
Source: github.com/wl666hhh/Think_While_Watching, data/sample_data at 55afbbf.
"""

from swwatch.errors import UserError


def messages_of(record: dict) -> list[dict]:
    """The messages of a record, in the form of data.seek_jsonl.

    Raises:
        UserError: a field is missing or of another type.
    """
    notes, questions, question = [], [], None
    try:
        segments = [(float(one["start"]), float(one["end"])) for one in record["metadata"]["segment_info"]]
        begins = {end: start for start, end in segments}
        for said in record["conversations"]:
            text = said["value"].removeprefix("<video>").strip()
            if said["from"] == "human":
                question = float(said["timestamps"]), text
            elif question is not None:
                questions.append([question[0], *question, text])
                question = None
            else:
                end_s = float(said["timestamps"])
                notes.append([begins[end_s], end_s, text])
        video = {"type": "video", "video": record["video"], "video_start": 0.0, "video_end": segments[-1][1]}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(f"this is no record of Think-While-Watching: {error!r} is missing or wrong") from error
    ends_s = [end for _, end in segments]
    stream = {"type": "text_stream", "text_stream": notes, "qa_stream": questions, "ends_s": ends_s}
    return [{"role": "user", "content": [video]}, {"role": "assistant", "content": [stream]}]
