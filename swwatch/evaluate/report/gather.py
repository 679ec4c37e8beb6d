"""Read all that one evaluation left behind: predictions, trace, facts, scores, the judge's scores."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from swwatch.data.annotations import read_jsonl, resolve_video
from swwatch.errors import UserError
from swwatch.evaluate.run_files import RunFiles, read_run, told_apart

TOKEN_FIELDS = {"step": int, "newest_visible_step": int, "t_frame_s": float, "t_emit_s": float, "text": str}


@dataclass(frozen=True)
class ReportedRun(RunFiles):
    """A run in a report.

    Attributes:
        name: what the report calls it, unique among the runs of a report.
        data: the annotations, where their file is still there.
    """

    name: str = ""
    data: Path | None = None

    @property
    def settings(self) -> dict:
        return self.metrics.get("settings", {})

    @property
    def about(self) -> dict:
        return self.metrics.get("about", {})

    @cached_property
    def records(self) -> dict[str, dict]:
        """Clip -> its annotation."""
        return {str(record["video_id"]): record for record in read_jsonl(self.data)} if self.data else {}

    def clip_scores(self, key: str) -> dict[str, float]:
        """Metric -> value of one clip, the judge's fluency among them."""
        values = dict(_of_clip(self.metrics["scores"], key))
        if key in self.judge.get("per_clip", {}):
            values["Fluency"] = self.judge["per_clip"][key]
        return {name: value for name, value in values.items() if is_number(value)}

    def clip_times(self, key: str) -> dict[str, float]:
        """Timing metric -> value of one clip, in the metric's own unit."""
        values = _of_clip(self.metrics.get("timing") or {}, key)
        return {name: value for name, value in values.items() if is_number(value)}

    def video(self, key: str, img_root: Path | None) -> Path:
        """Where the clip's video should lie: as the run found it, else as the annotations say."""
        parts = [part for part in self.rows[key].get("messages") or [] if isinstance(part, dict)]
        said = [part.get("value") for part in parts if part.get("type") == "video"]
        given = self.records.get(key, {}).get("video_path") or (said[0] if said else None)
        if img_root is None and said and Path(str(said[0])).is_file():
            return Path(said[0])
        return resolve_video(given and str(given), self.data or self.path, img_root)


def _of_clip(part: dict, key: str) -> dict:
    return (part.get("per_clip") or {}).get(key) or {}


def is_number(value: object) -> bool:
    """Whether it is a number that can be shown: neither a truth value nor NaN nor infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def gather(paths: list[Path], data: Path | None = None) -> list[ReportedRun]:
    """Read the runs of a report.

    Args:
        paths: predictions files; the other files of a run are found beside them.
        data: annotations to use for all runs instead of those that each run names.
    Raises:
        UserError: a file is missing or cannot be read, or scores are not of these predictions.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError("a run was named twice: name each predictions file once")
    runs = [read_reported(path, data) for path in paths]
    names = told_apart([[*run.path.resolve().parts[:-1], run.name] for run in runs], "/")
    return [replace(run, name=name) for run, name in zip(runs, names, strict=True)]


def read_reported(path: Path, data: Path | None = None) -> ReportedRun:
    """Read one run; see `gather`."""
    files = read_run(path)
    metrics_path = files.beside("metrics.json")
    if not metrics_path.exists():
        raise UserError(
            f"{path} has no scores yet ({metrics_path.name} is not there). Score it first, without a model:\n"
            f"  swwatch eval --score-only --output-file {path}"
        )
    _check_scores(files.metrics, metrics_path, files.rows)
    _check_trace(files.tokens, files.beside("trace.jsonl"))
    if not files.metrics.get("without_reference"):  # the annotations had what the predictions lack
        files.problems.pop("without_reference", None)
    named = files.metrics.get("about", {}).get("data")
    found = Path(named) if named and Path(named).is_file() else None
    return ReportedRun(path, files.rows, files.problems, path.stem.removesuffix("_infer"), data or found)


def _check_scores(metrics: dict, path: Path, rows: dict) -> None:
    again = "make it again with swwatch eval --score-only"
    if not isinstance(metrics.get("scores"), dict) or not isinstance(metrics["scores"].get("corpus"), dict):
        raise UserError(f"{path} holds no scores: {again}")
    foreign = metrics["scores"].get("per_clip", {}).keys() - rows.keys()
    if foreign:
        raise UserError(f"{path} scores {len(foreign)} clips without a prediction, such as {min(foreign)}: {again}")
    scored = metrics["scores"].get("per_clip", rows).keys()
    missing = [key for key, row in rows.items() if (row.get("annotation") or "").strip() and key not in scored]
    if missing:
        raise UserError(f"{path} lacks {len(missing)} of {len(rows)} predictions, such as {missing[0]}: {again}")


def _check_trace(trace: dict, path: Path) -> None:
    for key, tokens in trace.items():
        if not isinstance(tokens, list) or not all(_is_token(token) for token in tokens):
            raise UserError(f"{path}, clip {key}: its tokens lack one of {', '.join(TOKEN_FIELDS)}; remove the line")


def _is_token(token: object) -> bool:
    def fits(value: object, kind: type) -> bool:
        return isinstance(value, kind) if kind is not float else is_number(value)

    return isinstance(token, dict) and all(fits(token.get(name), kind) for name, kind in TOKEN_FIELDS.items())
