"""What a study consists of: three sizes of one design. Results of a smaller one are used by a larger one."""

from dataclasses import dataclass, replace

from swwatch.rules.variants import VARIANTS, Speaks

TRAINED = "wait-k:3"
SCHEDULES = {"fixed": TRAINED, "random": "random:3:seed=0", "burst": "burst:3:every=2"}  # name -> as on a command line

# how else a model that was fine-tuned from the BASE is tested: name -> flags. At another frame rate as many tokens are
# said in a second as whole steps allow: 3, but 4 at 4 frames a second and at 8
OTHER_K = {f"k={k}": {"schedule": f"wait-k:{k}"} for k in (1, 2, 4, 6)}
OTHER_RATES = {
    f"{fps}fps": {"schedule": f"wait-k:{k}", "fps": fps, "other_fps": True, "max_frames": 40 * fps}
    for fps, k in ((1, 6), (4, 2), (8, 1))
}


@dataclass(frozen=True)
class Plan:
    """One size of the study.

    Attributes:
        level: of the toy world (see swwatch.toy.levels).
        clips, test_clips: of the data set; every variant and seed gets the same.
        steps: optimizer steps of 16 clips, the same for every variant.
        seeds: each gives other initial weights and another order of the clips.
        base: all are fine-tuned from the BASE, in a quarter of the steps; those of the first seed are also tested with
            other K and at other rates.
    """

    name: str
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    level: str = "mixed"
    clips: int = 2400
    test_clips: int = 100
    steps: int = 800
    base: bool = False

    @property
    def folder(self) -> str:
        """Plans with the same data and steps share a folder, so that one continues the other."""
        return f"{self.level}-{self.clips}-{self.test_clips}-{self.steps}{'-base' * self.base}"

    def from_base(self) -> "Plan":
        """The same from the BASE."""
        return replace(self, base=True, steps=self.steps // 4)

    def schedules(self, variant: str) -> dict[str, str]:
        """The schedules under which a variant is tested; one that speaks after the video knows none."""
        return {"fixed": TRAINED} if VARIANTS[variant].speaks is Speaks.OFFLINE else SCHEDULES

    def rows(self) -> list[tuple[str, str]]:
        """(variant, schedule's name) of everything that is tested, as the tables have it."""
        return [(variant, schedule) for variant in self.variants for schedule in self.schedules(variant)]

    def sweep(self) -> dict[tuple[str, str], dict]:
        """(variant, name) of what else is tested -> flags; what speaks after the video knows no K."""
        variants = self.variants if self.base else ()
        offline = [variant for variant in variants if VARIANTS[variant].speaks is Speaks.OFFLINE]
        tests = {variant: OTHER_RATES if variant in offline else OTHER_K | OTHER_RATES for variant in variants}
        return {(variant, name): flags for variant, some in tests.items() for name, flags in some.items()}

    def cells(self) -> list[tuple[str, int, str]]:
        """(variant, seed, schedule's name) of every test; seeds in turn."""
        cells = [(variant, seed, schedule) for seed in self.seeds for variant, schedule in self.rows()]
        return cells + [(variant, self.seeds[0], name) for variant, name in self.sweep()]


ALL = tuple(VARIANTS)
PLANS = {
    "quick": Plan("quick", ("group", "interleave"), (0,)),
    "small": Plan("small", ALL, (0, 1, 2)),
    "large": Plan("large", ALL, (0, 1, 2), level="hard", clips=20_000, test_clips=400, steps=6000),
}
