"""What can be known of the images without building them: what they copy, install and start is ours."""

import fnmatch
import json
import re
from pathlib import Path

import pytest
import yaml

from swwatch.serve.auth import choose_token
from swwatch.serve.command import parse

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "requirements.lock").read_text()


@pytest.fixture(scope="module")
def steps() -> list[tuple[str, str]]:
    """(instruction, the rest) of the Dockerfile, continued lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def of(steps, name: str) -> list[str]:
    return [rest for instruction, rest in steps if instruction == name]


def test_every_file_that_is_copied_is_there_and_let_through(steps):
    *rules, _ = (line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("", "#"))
    assert rules[0] == "*"
    let_through = [rule[1:] for rule in rules[1:]]
    copied = [source for rest in of(steps, "COPY") for source in rest.split()[:-1]]
    assert {"requirements.lock", "swwatch", "configs"} <= set(copied) == set(let_through)
    assert all((ROOT / source).exists() for source in copied)


def test_what_the_package_needs_to_be_installed_is_copied(steps):
    """pyproject.toml names the readme and the licence; configs are read from beside the package."""
    pyproject = (ROOT / "pyproject.toml").read_text()
    named = re.findall(r'readme = "(.+?)"|license-files = \["(.+?)"\]', pyproject)
    copied = " ".join(of(steps, "COPY")).split()
    assert all(one in copied for pair in named for one in pair if one) and len(named) == 2


def test_the_lock_and_the_package_are_installed_as_setup_does_it(steps):
    setup = (ROOT / "scripts/setup.sh").read_text()
    runs = " ".join(of(steps, "RUN"))
    for part in ("-r", "--no-deps --editable"):
        assert f"--quiet {part}" in runs
    assert "pip install --disable-pip-version-check --quiet)" in setup  # the array that both begin with
    assert '"${install[@]}" --no-compile -r' in setup and '"${install[@]}" --no-deps --editable' in setup
    assert all("--disable-pip-version-check" in one for one in re.findall(r"pip install.*?(?=&&|$)", runs))


def test_the_cpu_image_takes_the_locks_torch_without_cuda(steps):
    run = next(rest for rest in of(steps, "RUN") if "download.pytorch.org" in rest)
    assert "--index-url https://download.pytorch.org/whl/cpu " in run
    pins = re.findall(r"(?:torch|torchvision)==[\d.]+", run)
    assert len(pins) == 2 and all(re.search(rf"^{re.escape(pin)}$", LOCK, re.M) for pin in pins)
    (removed,) = re.findall(r"sed -i -E '/(.+?)/d'", " ".join(of(steps, "RUN")))
    gone = [line for line in LOCK.splitlines() if re.search(removed, line)]
    assert len(gone) > 10 and all(line.startswith(("nvidia-", "cuda-", "triton==")) for line in gone)


def test_the_image_starts_a_server_that_wants_a_token_and_is_not_root(steps):
    (entry,) = (json.loads(rest) for rest in of(steps, "ENTRYPOINT"))
    assert entry[:2] == ["swwatch", "serve"]
    args = parse(entry[2:])
    with pytest.raises(Exception, match="give --token"):
        choose_token(None, args.host, args.no_token)
    made = next(rest for rest in of(steps, "RUN") if "useradd" in rest)
    assert str(args.files) in made and str(args.record_folder) in made and of(steps, "USER") == ["swwatch"]
    assert of(steps, "EXPOSE") == [str(args.port)]
    (health,) = of(steps, "HEALTHCHECK")
    command = json.loads(health.split("CMD ")[1])
    compile(command[2], "healthcheck", "exec")
    assert f"127.0.0.1:{args.port}/health" in command[2]


def test_both_bases_can_be_chosen(steps):
    stages = of(steps, "FROM")
    assert [stage.rpartition(" AS ")[2] for stage in stages] == ["base-cpu", "base-cuda", "base-${DEVICE}"]
    assert of(steps, "ARG")[0] == "DEVICE=cpu"


def test_compose_has_a_cpu_and_a_gpu_a_token_and_volumes(steps):
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    (volumes,) = (json.loads(rest) for rest in of(steps, "VOLUME"))
    for on, service in zip(("cpu", "cuda"), compose["services"].values(), strict=True):
        assert service["profiles"] == [on] and service["build"]["args"]["DEVICE"] == on
        assert service["environment"]["SWWATCH_TOKEN"].startswith("${SWWATCH_TOKEN:?"), "no start without one"
        assert all(port.startswith("127.0.0.1:") and port.endswith(":8000") for port in service["ports"])
        mounted = [volume.split(":")[-2 if volume.endswith(":ro") else -1] for volume in service["volumes"]]
        assert set(volumes) < set(mounted) and "/videos" in mounted
        flags = re.fullmatch(r"\$\{SWWATCH_ARGS:-(.+)\}", service["command"])[1]
        parse(flags.split())
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"]
    assert compose["volumes"].keys() == {"models", "recordings"}


def test_nothing_secret_or_large_is_sent_to_the_builder():
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    opened = [rule[1:] for rule in rules if rule.startswith("!")]
    for path in (".git", ".venv", "output", "dataset", ".env", "tests"):
        assert not any(fnmatch.fnmatch(path, rule) for rule in opened), path
