"""The `swwatch` console command: one table from name to program."""

import importlib
import sys

from swwatch import __version__
from swwatch.config import near
from swwatch.errors import run

# name -> (module with `main(argv) -> exit code`, one line of help); imported only when asked for
COMMANDS = {
    "prepare": ("swwatch.data.prepare.command", "filter PE-Video or FunQA into jsonl (also: python mani_data.py)"),
    "toy": ("swwatch.toy.command", "make toy clips (PE-Video's or FunQA's form) or a tiny checkpoint folder"),
    "train": ("swwatch.train.command", "fine-tune a variant (also: bash scripts/sft.sh)"),
    "merge": ("swwatch.train.merge", "put a trained adapter into its base model"),
    "export": ("swwatch.model.export", "write a checkpoint with the files of an older transformers"),
    "eval": ("swwatch.evaluate.caption.command", "caption a test set and score it (also: bash eval.sh)"),
    "rerun": ("swwatch.evaluate.rerun", "repeat a run from its run.json, and compare"),
    "compare": ("swwatch.evaluate.compare.command", "tell whether two evaluations differ by more than chance"),
    "disturb": ("swwatch.evaluate.disturb.command", "test checkpoints under schedules they were not trained with"),
    "judge": ("swwatch.evaluate.judge.command", "let a language model grade fluency, or compare two runs"),
    "quiz": (
        "swwatch.evaluate.quiz.command",
        "multiple choice: VideoMME, MVBench, OVO-Bench, StreamingBench, ...",
    ),
    "commentary": ("swwatch.evaluate.commentary.command", "comment on games and events, and let a judge compare"),
    "report": ("swwatch.evaluate.report.command", "write runs as one HTML page and as Markdown"),
    "stream": ("swwatch.narrate.command", "narrate one video while watching it"),
    "turns": (
        "swwatch.narrate.turns_command",
        "comment on a video of any length in chat turns (StreamingVLM, LiveCC)",
    ),
    "serve": ("swwatch.serve.command", "a page and a socket where a model speaks about what a camera sees"),
    "watch": ("swwatch.watch.command", "narrate a camera, a stream or a file, here or through a server"),
    "chunk": ("swwatch.data.turns.chunker", "cut timestamped transcripts into overlapping training chunks"),
    "inspect": ("swwatch.pictures.command", "draw the positions and the mask of a variant"),
    "bench": ("swwatch.bench.command", "measure training, streaming or live sessions on this machine"),
    "plan": ("swwatch.plan.command", "tell memory of a training run, speed and number of live sessions, beforehand"),
    "study": ("swwatch.study.command", "train and compare all variants on the toy world (bash scripts/study.sh)"),
}


def usage() -> str:
    lines = ["usage: swwatch COMMAND [options]   (swwatch COMMAND --help tells the options)", ""]
    return "\n".join(lines + [f"  {name:11}{text}" for name, (_, text) in COMMANDS.items()])


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        return run(lambda _: print(usage(), flush=True), [])
    name, rest = argv[0], argv[1:]
    if name == "--version":
        return run(lambda _: print(f"swwatch {__version__}", flush=True), [])
    if name not in COMMANDS:
        print(f"error: no command {name!r}{near(name, COMMANDS)}\n{usage()}", file=sys.stderr)
        return 2
    return run(importlib.import_module(COMMANDS[name][0]).main, rest)


if __name__ == "__main__":
    sys.exit(main())
