"""What a run takes, before it is begun: from a model's shapes alone, nothing is downloaded, trained or served."""

from swwatch.config import choose_kind, read_settings
from swwatch.plan import live, replicas, training

KINDS = {
    "train": (training.TrainPlanSettings, training.report),
    "live": (live.LivePlanSettings, live.report),
    "replicas": (replicas.ReplicaPlanSettings, replicas.report),
}


def main(argv: list[str]) -> int:
    about = {name: cls.__doc__.partition("\n")[0] for name, (cls, _) in KINDS.items()}
    name = choose_kind(argv, program="swwatch plan", about=__doc__, kinds=about)
    cls, report = KINDS[name]
    print(report(read_settings(cls, argv[1:], program=f"swwatch plan {name}", about=cls.__doc__)))
    return 0
