"""`swwatch toy`: make toy clips in PE-Video's or FunQA's form, their transcripts, or a tiny checkpoint folder."""

import argparse
import os
from pathlib import Path

from swwatch.rules.families import FAMILIES
from swwatch.toy.clips import FORMS, Recipe, write_dataset
from swwatch.toy.commentary import write_transcripts
from swwatch.toy.funqa import FunqaRecipe, write_funqa
from swwatch.toy.world import LEVELS, MIXTURES


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="swwatch toy", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="{data,funqa,transcripts,model}")
    data = kinds.add_parser("data", help="short mp4 clips of moving shapes with captions, train and test split")
    data.add_argument("out", type=Path, metavar="OUT", help="root folder of the data set: new, empty or ours")
    data.add_argument("--clips", type=int, required=True, metavar="N", help="number of training clips")
    data.add_argument("--test-clips", type=int, default=60, metavar="M", help="number of test clips (%(default)s)")
    data.add_argument("--seed", type=int, default=0, help="another seed gives other clips (%(default)s)")
    data.add_argument(
        "--level", choices=[*LEVELS, *MIXTURES], default="single", help="what the scenes are made of (%(default)s)"
    )
    data.add_argument("--form", choices=FORMS, default="json", help="JSON and mp4 files, or tar shards (%(default)s)")
    data.add_argument("--noise", type=float, default=0.0, metavar="F", help="share of records to be filtered out (0)")
    data.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (one a core)")
    funqa = kinds.add_parser("funqa", help="the same clips with questions, in FunQA's official form")
    funqa.add_argument("out", type=Path, metavar="OUT", help="root folder of the data set: new, empty or ours")
    funqa.add_argument("--clips", type=int, required=True, metavar="N", help="number of training videos")
    funqa.add_argument(
        "--test-clips", type=int, default=60, metavar="M", help="videos of val and of test (%(default)s)"
    )
    funqa.add_argument("--seed", type=int, default=0, help="another seed gives other videos (%(default)s)")
    funqa.add_argument("--noise", type=float, default=0.1, metavar="F", help="share to be filtered out (%(default)s)")
    told = kinds.add_parser("transcripts", help="what is said of the clips of `toy data`, word by word with its times")
    told.add_argument("out", type=Path, metavar="OUT", help="root folder of the clips")
    model = kinds.add_parser("model", help="a Qwen2.5-VL checkpoint folder of 1.6 M random weights")
    model.add_argument("out", type=Path, metavar="OUT", help="the folder to make: new, empty or ours")
    model.add_argument("--seed", type=int, default=0, help="seed of the weights (%(default)s)")
    model.add_argument("--family", choices=list(FAMILIES), default="qwen2_5_vl", help="of the model (%(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    args = parse(argv)
    if args.kind == "model":
        from swwatch.toy.checkpoint import make_checkpoint  # torch takes seconds to import; clips do without

        print(f"the toy checkpoint is in {make_checkpoint(args.out, family=args.family, seed=args.seed)}")
        return 0
    if args.kind == "transcripts":
        for path, count in write_transcripts(args.out).items():
            print(f"the words of {count} clips are in {path}")
        print("next: swwatch chunk TRANSCRIPTS OUT --window 6 --overlap 2 --min-words 6")
        return 0
    if args.kind == "funqa":
        made = write_funqa(args.out, FunqaRecipe(args.clips, args.test_clips, args.seed, args.noise))
        print(f"{args.clips} training, {args.test_clips} val and test videos ({made} of them new) are in {args.out}")
        print(f"next: python mani_data.py --task funqa --dataset-root {args.out} --tokenizer-model-id CHECKPOINT")
        return 0
    recipe = Recipe(args.clips, args.test_clips, args.seed, args.level, args.form, args.noise)
    made = write_dataset(args.out, recipe, workers=args.workers)
    print(f"{args.clips} training and {args.test_clips} test clips ({made} of them new) are in {args.out}")
    print(f"next: python mani_data.py --dataset-root {args.out} --tokenizer-model-id CHECKPOINT")
    return 0
