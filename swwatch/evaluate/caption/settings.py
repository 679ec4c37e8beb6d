"""What can be set for an evaluation, and where the defaults point."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from swwatch.config import check_least, setting
from swwatch.data.tasks import TASKS
from swwatch.errors import UserError
from swwatch.evaluate.run_files import in_folder
from swwatch.model.flags import LoadFlags, SessionFlags
from swwatch.paths import CONFIGS, ROOT

CONFIG = CONFIGS / "eval.yaml"


@dataclass(frozen=True, kw_only=True)
class EvalSettings(SessionFlags, LoadFlags):
    """Flags and environment variables as the public release names them, then our own."""

    variant: str | None = setting(
        None, "position layout, if the checkpoint does not name its own", env="QWEN2_5_VL_VARIANT"
    )
    model_path: str | None = setting(
        None,
        "checkpoint folder or hub id (default: output/qwen2_5vl-<pe|funqa>-<variant>, where sft.sh writes)",
        env="QWEN2_5_VL_EVAL_MODEL_PATH",
    )
    task: Literal["pe-video", "funqa"] = setting(
        "pe-video",
        "pe-video or funqa: chooses the default test file, model and names of the results",
        env="QWEN2_5_VL_TASK",
    )
    dataset: str = setting("3_5", "of pe-video: goes into the results and names the default test file")
    data_dir: Path | None = setting(
        None,
        "test annotations, a jsonl file or a folder with test_<dataset>.jsonl or, for funqa, funqa_test.jsonl "
        "(default: dataset/ of the repository)",
        env="QWEN2_5_VL_EVAL_DATA_DIR",
    )
    img_root: Path | None = setting(
        None,
        "folder that holds all videos side by side (default: where the records say)",
        env="QWEN2_5_VL_EVAL_IMG_ROOT",
    )
    output_dir: Path = setting(
        ROOT / "output" / "eval", "folder of the results", env="QWEN2_5_VL_EVAL_OUTPUT_DIR", output="folder"
    )
    output_file: str | None = setting(
        None,
        "predictions: a name in the output folder, or a path (default: <variant>_infer.json; funqa_<variant>_...)",
        env="QWEN2_5_VL_EVAL_OUTPUT_FILE",
        output="name",
    )
    max_count: int = setting(400, "evaluate the first so many clips of the file", least=1)
    max_frames: int = setting(60, "longest video that is accepted, in frames")
    reader: Literal["pyav", "decord"] = setting(
        "pyav", "what decodes videos: pyav, as the ffmpeg command shows them; decord, as the release did"
    )
    max_new_tokens: int = setting(300, "limit of a whole answer; of a turn for chat systems", least=1)
    repetition_penalty: float | None = setting(None, "1 is off (default: 1.15, or the chat system's own)", above=0)
    max_bad_fraction: float = setting(
        0.01, "stop when more of the clips than this cannot be read (0: at the first)", least=0, most=1
    )
    clips_at_once: str = setting("1", "so many clips share every forward, or auto: as many as memory holds")
    restart: bool = setting(False, "delete earlier results of the same name first")
    score_only: bool = setting(False, "score the predictions that are there; no model")
    bleurt: str | None = setting(None, "score BLEURT too: folder or hub id of BLEURT-20, lucadiliello/BLEURT-20")
    bertscore: str | None = setting(None, "score BERTScore too: folder or hub id of an encoder, roberta-large")
    bertscore_layer: int | None = setting(None, "its layer (default: the published best one of a known hub id)")
    bertscore_idf: bool = setting(False, "weigh its tokens by their rarity among the references")
    bertscore_baseline: Path | None = setting(None, "rescale it by a file of LAYER,P,R,F (default: raw values)")

    def __post_init__(self):
        super().__post_init__()
        check_least(self)
        self.check_choose("repetition_penalty")
        if self.task != "pe-video" and self.dataset != "3_5":
            raise UserError(
                f"--dataset {self.dataset} names test data of pe-video: leave it out with --task {self.task}"
            )
        if self.bertscore is None and (
            self.bertscore_layer is not None or self.bertscore_idf or self.bertscore_baseline is not None
        ):
            raise UserError("--bertscore-layer, -idf and -baseline go with --bertscore: give it a model")
        if self.clips_at_once != "auto" and not (self.clips_at_once.isdecimal() and int(self.clips_at_once) >= 1):
            raise UserError(f"--clips-at-once {self.clips_at_once}: a whole number from 1 on, or auto, is wanted")

    @property
    def model(self) -> str:
        """The checkpoint: as given, else the one that training wrote.

        Raises:
            UserError: none was given, and none or several are there.
        """
        if self.model_path is not None:
            return self.model_path
        name = f"qwen2_5vl-{TASKS[self.task].label}-{self.variant or '*'}"
        trained = sorted((ROOT / "output").glob(f"{name}/config.json"))
        if len(trained) != 1:
            found = ", ".join(path.parent.name for path in trained) or "none"
            raise UserError(f"which model? Give --model-path or --variant (trained under {ROOT / 'output'}: {found})")
        return str(trained[0].parent)

    @property
    def label(self) -> str:
        """The `task` of predictions whose records name none."""
        return self.dataset if self.task == "pe-video" else self.task

    @property
    def data_path(self) -> Path:
        """The test annotation file."""
        name = f"test_{self.dataset}.jsonl" if self.task == "pe-video" else TASKS[self.task].test_file
        if self.data_dir is None:
            return ROOT / "dataset" / name
        return self.data_dir / name if self.data_dir.is_dir() else self.data_dir

    def predictions_path(self, variant: str | None) -> Path:
        """Where the predictions go.

        Raises:
            UserError: neither a variant nor a file name is known.
        """
        if not (self.output_file or variant):
            raise UserError("which results? Give --variant or --output-file")
        prefix = "" if self.task == "pe-video" else f"{self.task}_"
        return in_folder(self.output_dir, self.output_file or f"{prefix}{variant}_infer.json")
