"""Our sessions as a model of lmms-eval, which finds it by its entry points: `lmms_eval --model swwatch`.

A request is one video and a question; the answer is all that is said while, and after, it is watched. A path may end
in `#t=FROM,TO` (seconds, as media fragments have it): so much of the file is watched.
"""

import re
from pathlib import Path

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from tqdm import tqdm

from swwatch.data.video import iter_steps
from swwatch.errors import UserError
from swwatch.model.loading import load
from swwatch.narrate.words import narrate

FRAGMENT = re.compile(r"(.+)#t=(\d+(?:\.\d+)?),(\d+(?:\.\d+)?)")
NUMBERS = {"fps": float, "max_frames": int}
TRUE = ("true", "1")


def manifest() -> ModelManifest:
    """What lmms-eval is told of us."""
    return ModelManifest("swwatch", simple_class_path=f"{__name__}.Sessions")


class Sessions(lmms):
    """Each request watches its video in a session of its own.

    Args:
        pretrained: checkpoint folder or hub id.
        max_frames: of a video (default: any number); a longer one is an error.
        system: prompt; None: the family's own.
        batch_size: one is all there is.
        options: of model.loading.load, as text: variant, schedule, see, keep, choose, fps, device, dtype, attention.
    Raises:
        UserError: as load.
    """

    def __init__(self, pretrained: str, *, max_frames=None, system: str | None = None, batch_size=1, **options):
        super().__init__()
        if int(batch_size) != 1:
            raise UserError(f"--batch_size {batch_size}: a session watches one video; leave it at 1")
        options.pop("max_batch_size", None)
        self._loaded = load(pretrained, **{k: NUMBERS.get(k, str)(v) for k, v in options.items() if v is not None})
        self._max_frames, self._system = max_frames and int(max_frames), system

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The answers, in the order of the requests."""
        answers = []
        for request in tqdm(requests, desc="videos", disable=bool(self.rank)):
            context, how, to_visual, doc_id, task, split = request.args
            answers.append(self._answer(context, to_visual(self.task_dict[task][split][doc_id]), how))
            self.cache_hook.add_partial("generate_until", (context, how), answers[-1])
        return answers

    def generate_until_multi_round(self, requests: list[Instance]) -> list[list[str]]:
        """Rounds until the task's own function ends them. Every round watches what it shows anew, or, where it shows
        nothing, what the round before it showed."""
        found = []
        for request in tqdm(requests, desc="videos", disable=bool(self.rank)):
            context, how, to_visual, to_text, doc_id, task, split = request.args
            doc, said, info = self.task_dict[task][split][doc_id], [], None
            shown, over = to_visual(doc), False
            while not over:
                said.append(self._answer(context, shown, how))
                past = {"previous_output": said, "round_idx": len(said), "previous_round_info": info}
                visual, context, over, said, info = to_text(doc, **past)
                shown, said = visual or shown, list(said)
            found.append(said)
        return found

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Refused: a session speaks. `swwatch quiz` compares the logits of options."""
        raise UserError(
            "this task compares likelihoods and a session speaks: take one that generates, or `swwatch quiz`"
        )

    def _answer(self, question: str, visual: list, how: dict) -> str:
        if len(visual) != 1 or not isinstance(visual[0], str):
            raise UserError(f"a session watches one video file, and this task shows {[type(one) for one in visual]}")
        if str(how.get("do_sample", False)).lower() in TRUE and how.get("temperature", 1) > 0:
            raise UserError("the task draws tokens: give --gen_kwargs do_sample=False, or --model_args choose=sample")
        part = None if Path(visual[0]).exists() else FRAGMENT.fullmatch(visual[0])
        path, span = (part[1], {"span": (float(part[2]), float(part[3]))}) if part else (visual[0], {})
        steps = iter_steps(path, max_frames=self._max_frames, fps=self._loaded.settings.fps, **span)
        options = {} if self._system is None else {"system": self._system}
        limit = {"max_new_tokens": int(how["max_new_tokens"])} if "max_new_tokens" in how else {}
        text = "".join(token.text for token in narrate(self._loaded, steps, question=question, **options, **limit))
        stops = how.get("until") or []
        ends = [at for stop in ([stops] if isinstance(stops, str) else stops) if stop and (at := text.find(stop)) >= 0]
        return text[: min(ends, default=len(text))].strip()
