"""The tasks that `--task` names: where their annotations lie by default, and what their results are called."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataTask:
    """A row of the table below.

    Attributes:
        train_file, test_file: names of the annotation files that `mani_data.py` makes in `dataset/`.
        label: stands in the name of a trained model, output/qwen2_5vl-<label>-<variant>.
    """

    train_file: str
    test_file: str
    label: str


SUBTASKS = ("H2", "H3", "C2", "C3", "M2", "M3")  # of FunQA: description and reasoning of humour, creativity, magic
TASKS = {
    "pe-video": DataTask("train_3_5.jsonl", "test_3_5.jsonl", "pe"),  # video description
    "funqa": DataTask("funqa_train.jsonl", "funqa_test.jsonl", "funqa"),  # video question answering
}
