"""The `swwatch` console command: one table from name to program."""

import importlib
import logging
import sys

from swwatch.errors import UserError

# name -> (module with `main(argv) -> exit code`, one line of help); imported only when asked for
COMMANDS = {
    "prepare": ("swwatch.data.prepare", "filter PE-Video or FunQA into jsonl (also: python mani_data.py)"),
    "toy": ("swwatch.toy.command", "make toy clips (PE-Video's or FunQA's form) or a tiny checkpoint folder"),
    "train": ("swwatch.train.command", "fine-tune a variant (also: bash scripts/sft.sh)"),
    "merge": ("swwatch.train.merge", "put a trained adapter into its base model"),
    "eval": ("swwatch.evaluate.command", "caption a test set and score it (also: bash eval.sh)"),
    "compare": ("swwatch.evaluate.compare", "tell whether two evaluations differ by more than chance"),
    "disturb": ("swwatch.evaluate.disturb", "test checkpoints under schedules they were not trained with"),
    "judge": ("swwatch.evaluate.judge", "let a language model grade fluency, or compare two runs"),
    "quiz": (
        "swwatch.evaluate.choices.command",
        "multiple choice: VideoMME, MVBench, OVO-Bench, StreamingBench, ...",
    ),
    "commentary": ("swwatch.evaluate.commentary.command", "comment on games and events, and let a judge compare"),
    "report": ("swwatch.evaluate.page.command", "write runs as one HTML page and as Markdown"),
    "stream": ("swwatch.stream", "narrate one video while watching it"),
    "turns": ("swwatch.turns.command", "comment on a video of any length in chat turns (StreamingVLM, LiveCC)"),
    "serve": ("swwatch.serve.command", "a page and a socket where a model speaks about what a camera sees"),
    "watch": ("swwatch.watch", "narrate a camera, a stream or a file, here or through a server"),
    "chunk": ("swwatch.turns.chunker", "cut timestamped transcripts into overlapping training chunks"),
    "inspect": ("swwatch.inspect", "draw the positions and the mask of a variant"),
    "bench": ("swwatch.bench.command", "measure training, streaming or live sessions on this machine"),
    "study": ("swwatch.study.command", "train and compare all variants on the toy world (bash scripts/study.sh)"),
}


def usage() -> str:
    lines = ["usage: swwatch COMMAND [options]   (swwatch COMMAND --help tells the options)", ""]
    return "\n".join(lines + [f"  {name:11}{text}" for name, (_, text) in COMMANDS.items()])


def run(program, argv: list[str]) -> int:
    """Call `program(argv)`; a UserError becomes one line on stderr and exit code 2."""
    # deepspeed warns on import that there is no GPU; our banners tell the device
    logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator" not in record.getMessage())
    try:
        return program(argv) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output (head, less) went away
        sys.stderr.close()
        return 141


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        print(f"error: no command {name!r}\n{usage()}", file=sys.stderr)
        return 2
    return run(importlib.import_module(COMMANDS[name][0]).main, rest)


if __name__ == "__main__":
    sys.exit(main())
