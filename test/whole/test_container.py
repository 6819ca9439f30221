"""The image, built and run as the platform runs it; `./test.sh container` starts this where an engine answers.

`CONTAINER_ENGINE` names the engine (docker), `BASE_IMAGE` the base; `BUILD_OPTIONS` are added to each build.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from expected import ALL, HPV, MASK, MASK_2026, RISK, STAGES, compare, compare_2026, files

ROOT = Path(__file__).resolve().parents[2]
ENGINE = os.environ.get("CONTAINER_ENGINE", "docker")
LIMITS = [
    *("--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--memory", "15g", "--memory-swap", "15g", "--shm-size", "16m", "--pids-limit", "512"),
    *("--tmpfs", "/tmp:rw,size=1g,mode=1777"),
]
PYTHON = "/opt/venv/bin/python"
MEASURED = """
import resource, subprocess, sys, time
started = time.monotonic()
code = subprocess.call([sys.executable, "inference.py"])
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(f"measured: {time.monotonic() - started:.1f} s, peak {peak:.0f} MiB")
sys.exit(code)
"""

pytestmark = pytest.mark.container


def engine(*arguments: str, check: bool = True, timeout: float = 1200) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ENGINE, *arguments], capture_output=True, text=True, check=check, timeout=timeout)


@cache
def device() -> str:
    """Tell what the engine's containers may use; asked when a test wants it, as there may be no engine."""
    return "gpu" if "nvidia" in engine("info", "--format", "{{json .}}", check=False).stdout.lower() else "cpu"


BASE = ["--build-arg", f"BASE_IMAGE={os.environ['BASE_IMAGE']}"] if "BASE_IMAGE" in os.environ else []
EXTRA = shlex.split(os.environ.get("BUILD_OPTIONS", ""))


def build(tag: str, *options: str, source: Path = ROOT) -> float:
    """Build an image; the seconds it took."""
    started = time.monotonic()
    built = engine("build", "--tag", tag, *BASE, *EXTRA, *options, str(source), check=False)
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    return time.monotonic() - started


@pytest.fixture(scope="session")
def say(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Print a figure past pytest's capture."""
    reporter, capture = map(pytestconfig.pluginmanager.get_plugin, ("terminalreporter", "capturemanager"))

    def write(text: str) -> None:
        with capture.global_and_fixture_disabled():
            reporter.write_line(f"  {text}")

    return write


@pytest.fixture(scope="session")
def image(say: Callable[[str], None]) -> str:
    say(f"build: {build('mmpl:test'):.0f} s")
    return "mmpl:test"


@pytest.fixture(scope="session")
def server_image(image: str) -> str:
    build("mmpl:test-invoke", "--target", "invoke")
    return "mmpl:test-invoke"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Writable by anyone, as the image's user is not ours."""
    folder = tmp_path / "output"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


@pytest.fixture
def case(tmp_path: Path, sample: Path) -> Path:
    """The sample case, to be broken."""
    return Path(shutil.copytree(sample, tmp_path / "input"))


def run(
    image: str, source: Path, output: Path, *options: str, command: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run the image as the platform does."""
    gpus = ["--gpus", "all"] if device() == "gpu" else []
    mounts = ["--volume", f"{source}:/input:ro", "--volume", f"{output}:/output"]
    return engine("run", "--rm", *LIMITS, *gpus, *mounts, *options, image, *command, check=False)


def refuse(ran: subprocess.CompletedProcess[str], output: Path, message: str) -> None:
    """Assert exit code 1, one line that says why, and nothing in the output."""
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert ran.stderr.startswith("error: ")
    assert message in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert files(output) == set()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the project, to be changed."""
    left_out = (".venv", ".git", "runs", "cohorts", "output", "__pycache__", ".*_cache")
    return Path(shutil.copytree(ROOT, tmp_path / "project", ignore=shutil.ignore_patterns(*left_out)))


def test_a_change_of_code_rebuilds_in_seconds(image: str, checkout: Path, say: Callable[[str], None]) -> None:
    with (checkout / "mmpl" / "pipeline.py").open("a") as file:
        file.write(f"# {time.time()}\n")
    seconds = build("mmpl:test-changed", source=checkout)
    say(f"rebuild after a change of code: {seconds:.0f} s")
    assert seconds < 60


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        ('rm "$(command -v python3)"', "with pip and venv: /bin/sh"),
        (
            """printf '#!/bin/sh\\necho Python 3.10.12; exit 1' >"$(command -v python3)" """,
            "with pip and venv: Python 3.10.12",
        ),
        ('rm -r "$(python3 -c "import pip; print(*pip.__path__)")"', "with pip and venv: Python 3."),
        ("rm /usr/bin/apt-get", "has no gcc with /"),
    ],
)
def test_a_base_that_lacks_something_is_refused_in_one_line(
    image: str, checkout: Path, lacking: str, message: str
) -> None:
    """What `image` was built on lacks nothing. An engine may print the step too, where nothing is filled in."""
    shutil.rmtree(checkout / "wheels", ignore_errors=True)
    told = (checkout / "Dockerfile").read_text()
    worse = f"FROM ${{BASE_IMAGE}} AS worse\nUSER root\nRUN {lacking}\n"
    told = told.replace("FROM ${BASE_IMAGE} AS build", worse + "FROM worse AS build")
    (checkout / "Dockerfile").write_text(told)
    built = engine("build", *BASE, *EXTRA, "--target", "build", str(checkout), check=False)
    assert built.returncode != 0
    assert re.search(f"error: the base image .*{message}", built.stdout + built.stderr), built.stdout + built.stderr


@pytest.mark.parametrize(
    ("tasks", "wanted"),
    [
        ("segmentation", frozenset({MASK})),
        ("survival", frozenset({RISK})),
        ("hpv", frozenset({HPV})),
        pytest.param("", ALL, id="all"),
    ],
)
def test_exec_answers_each_task(
    image: str, sample: Path, output: Path, say: Callable[[str], None], tasks: str, wanted: frozenset[str]
) -> None:
    measured = ("--env", f"MMPL_TASKS={tasks}", "--entrypoint", PYTHON)
    ran = run(image, sample, output, *measured, command=("-c", MEASURED))
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout + ran.stderr
    say(f"exec, {tasks or 'all tasks'}: {ran.stdout.splitlines()[-1].removeprefix('measured: ')}")
    compare(output, ran.stdout, wanted, device())
    assert ("on the CPU, as no GPU can be used" in ran.stdout) == (device() == "cpu")


def test_the_images_own_entrypoint_and_task(image: str, sample: Path, output: Path) -> None:
    build("mmpl:test-hpv", "--build-arg", "MMPL_TASKS=hpv")
    ran = run("mmpl:test-hpv", sample, output)
    assert (ran.returncode, ran.stderr) == (0, "")
    compare(output, ran.stdout, frozenset({HPV}), device())


def test_exec_answers_the_2026_edition(image: str, sample: Path, output: Path, say: Callable[[str], None]) -> None:
    measured = ("--env", "MMPL_EDITION=hecktor-2026", "--entrypoint", PYTHON)
    ran = run(image, sample, output, *measured, command=("-c", MEASURED))
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout + ran.stderr
    say(f"exec, hecktor-2026: {ran.stdout.splitlines()[-1].removeprefix('measured: ')}")
    compare_2026(output, ran.stdout, device())
    assert "clinical record: HPV Status is not given: predicted" in ran.stdout


@pytest.mark.parametrize(
    ("edition", "tasks", "message"),
    [
        ("hecktor-2026", "hpv", "MMPL_TASKS names hpv; hecktor-2026 asks for segmentation, survival, t-stage, n-stage"),
        ("hecktor-2025", "t-stage", "MMPL_TASKS names t-stage; hecktor-2025 asks for segmentation, survival, hpv"),
        ("hecktor-1999", "", "no edition 'hecktor-1999' (MMPL_EDITION); there are hecktor-2025, hecktor-2026"),
    ],
)
def test_what_an_edition_or_the_weights_lack_is_refused(
    image: str, sample: Path, output: Path, edition: str, tasks: str, message: str
) -> None:
    ran = run(image, sample, output, "--env", f"MMPL_EDITION={edition}", "--env", f"MMPL_TASKS={tasks}")
    refuse(ran, output, message)


@contextmanager
def started(image: str, case: Path, output: Path) -> Iterator[str]:
    """A running server; its name."""
    name = f"mmpl-test-{os.getpid()}"
    gpus = ["--gpus", "all"] if device() == "gpu" else []
    mounts = ["--volume", f"{case}:/input:ro", "--volume", f"{output}:/output"]
    engine("run", "--detach", "--name", name, *LIMITS, *gpus, *mounts, image)
    try:
        yield name
    finally:
        engine("rm", "--force", name)


@pytest.fixture
def server(server_image: str, case: Path, output: Path) -> Iterator[str]:
    with started(server_image, case, output) as name:
        yield name


def ask(server: str, method: str, path: str) -> int:
    """Send a request from inside the container, which has no network; the status, 0 where nobody listens."""
    program = (
        "import http.client\n"
        "try:\n"
        "    connection = http.client.HTTPConnection('127.0.0.1', 4743)\n"
        f"    connection.request({method!r}, {path!r})\n"
        "    print(connection.getresponse().status)\n"
        "except ConnectionRefusedError:\n"
        "    print(0)\n"
    )
    return int(engine("exec", server, PYTHON, "-c", program).stdout)


def wait_until_healthy(server: str) -> float:
    started = time.monotonic()
    while (status := ask(server, "GET", "/health")) != 200:
        assert status in (0, 503)
        assert time.monotonic() - started < 300
        time.sleep(0.5)
    return time.monotonic() - started


def last_case(server: str) -> str:
    """What the server printed of its latest case."""
    return "segmenting" + engine("logs", server).stdout.rpartition("segmenting")[2]


def test_invoke_answers_one_case_after_the_other(
    server: str, case: Path, output: Path, say: Callable[[str], None]
) -> None:
    say(f"invoke: healthy after {wait_until_healthy(server):.1f} s")
    for _ in range(2):
        started = time.monotonic()
        assert ask(server, "POST", "/invoke") == 201
        say(f"invoke: a case in {time.monotonic() - started:.1f} s")
        compare(output, last_case(server), ALL, device())

    (pet,) = (case / "images/pet").iterdir()
    hidden = pet.rename(case / pet.name)
    assert ask(server, "POST", "/invoke") == 500
    assert files(output) == set()  # nothing of the case before, either
    assert ask(server, "GET", "/health") == 200
    hidden.rename(pet)
    assert ask(server, "POST", "/invoke") == 201
    compare(output, last_case(server), ALL, device())

    logs = engine("logs", server)
    assert logs.stderr.count("error: ") == 1
    assert "images/pet: 0 PET images" in logs.stderr
    started = time.monotonic()
    engine("stop", "--time", "20", server)
    say(f"invoke: ends {time.monotonic() - started:.1f} s after it is asked to")
    assert time.monotonic() - started < 5
    assert engine("inspect", "--format", "{{.State.OOMKilled}}", server).stdout.strip() == "false"


def test_invoke_answers_the_2026_edition_with_the_status_that_the_record_has(
    server_image: str, case: Path, output: Path, say: Callable[[str], None]
) -> None:
    """By an image that is built for it."""
    build("mmpl:test-2026", "--target", "invoke", "--build-arg", "MMPL_EDITION=hecktor-2026")
    record, times = json.loads((case / "ehr.json").read_text()), {}
    with started("mmpl:test-2026", case, output) as server:
        wait_until_healthy(server)
        for status, word in ((0, "negative"), (1, "positive")):
            (case / "ehr.json").write_text(json.dumps(record | {"HPV Status": status})[:-1] + ",}")
            began = time.monotonic()
            assert ask(server, "POST", "/invoke") == 201
            say(f"invoke, hecktor-2026: a case in {time.monotonic() - began:.1f} s")
            assert f"note: the risk rests on a known HPV status ({word})" in last_case(server)
            assert files(output) == {MASK_2026, RISK, *STAGES}
            times[word] = json.loads((output / RISK).read_text())
        logs = engine("logs", server)
    assert "hecktor-2026 asks for" not in logs.stdout
    assert logs.stderr == ""
    assert times["negative"] < times["positive"]


def test_without_a_pet(image: str, case: Path, output: Path) -> None:
    shutil.rmtree(case / "images/pet")
    refuse(run(image, case, output), output, "/input/images/pet: 0 PET images")


def test_broken_json(image: str, case: Path, output: Path) -> None:
    (case / "ehr.json").write_text('{"Age": ')
    refuse(run(image, case, output), output, "/input/ehr.json: not valid JSON")


def test_an_output_that_cannot_be_written(image: str, sample: Path, output: Path) -> None:
    output.chmod(0o555)
    ran = run(image, sample, output)
    output.chmod(0o777)
    refuse(ran, output, "/output")
    assert "Permission denied" in ran.stderr


def test_an_output_disk_that_is_full(image: str, sample: Path, output: Path) -> None:
    small = ("--env", "MMPL_OUTPUT=/small", "--tmpfs", "/small:rw,size=4k,mode=1777")
    refuse(run(image, sample, output, *small), output, "No space left on device")


def test_a_temporary_disk_that_is_full_matters_to_nothing(image: str, sample: Path, output: Path) -> None:
    """Filled to the last byte before the program starts."""
    fill = "cat /dev/zero >/tmp/fill 2>/dev/null; ! echo x >/tmp/more"
    script = f"({fill}) 2>/dev/null && exec {PYTHON} inference.py"
    ran = run(image, sample, output, "--entrypoint", "sh", command=("-c", script))
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
    compare(output, ran.stdout, ALL, device())


def test_a_tampered_weight_file_stops_the_container_before_any_case(
    image: str, server_image: str, sample: Path, output: Path, tmp_path: Path
) -> None:
    weights = Path(shutil.copytree(ROOT / "weights", tmp_path / "weights"))
    (weights / "patient-3/hpv.safetensors").write_bytes(b"tampered")
    model = ("--volume", f"{weights}:/opt/ml/model:ro")
    refuse(run(image, sample, output, *model), output, "/opt/ml/model/patient-3/hpv.safetensors: its SHA-256 is not")
    refuse(run(server_image, sample, output, *model), output, "/opt/ml/model/patient-3/hpv.safetensors")
    (weights / "patient-3/hpv.safetensors").unlink()
    refuse(run(image, sample, output, *model), output, "/opt/ml/model/patient-3/hpv.safetensors: no such file")


def test_inputs_json_is_honored(image: str, case: Path, output: Path) -> None:
    (case / "record").mkdir()
    (case / "ehr.json").rename(case / "record/other.json")
    listed = [{"socket": {"slug": "electronic-health-record", "relative_path": "record/other.json"}}]
    (case / "inputs.json").write_text(json.dumps(listed))
    ran = run(image, case, output, "--env", "MMPL_TASKS=segmentation")
    assert (ran.returncode, ran.stderr) == (0, "")
    compare(output, ran.stdout, frozenset({MASK}), device())


def test_the_image_holds_what_inference_needs_and_no_more(
    image: str, server_image: str, say: Callable[[str], None]
) -> None:
    def inspect(name: str, what: str) -> str:
        return engine("image", "inspect", "--format", what, name).stdout.strip()

    assert inspect(image, "{{.Config.User}}") == "mmpl"
    labels = json.loads(inspect(image, "{{json .Config.Labels}}"))
    assert "org.grand-challenge.api-method" not in labels
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert inspect(server_image, '{{index .Config.Labels "org.grand-challenge.api-method"}}') == "invoke"
    assert inspect(image, "{{.Architecture}}") == "amd64"
    size = int(inspect(image, "{{.Size}}"))
    say(f"size: {size / 1e9:.2f} GB uncompressed")
    assert size < 10e9
    script = r"""
set -u
id -u
command -v gcc cc g++ c++ || echo no compiler
find / -xdev \( -path '*/pip/http*' -o -path '*/.cache/pip*' \) 2>/dev/null | head -1
find /opt -xdev \( -name '*.mha' -o -name '*.nii.gz' -o -name 'test_*.py' -path '/opt/app/*' \) | head -3
find /opt -xdev \( -name '*.pem' -path '/opt/app/*' -o -name '.git*' -o -name '.env' -o -name 'id_*sa' \) | head -3
for name in lightning lifelines skglm imblearn pytest ruff mypy dask pandas tensorboard mmpl.training; do
    /opt/venv/bin/python -c "import $name" 2>/dev/null && echo "$name is there"
done
/opt/venv/bin/python -c 'import mmpl.algorithm, mmpl.io.server'
python3 -c 'import torch' || exit 0 # the base has none
/opt/venv/bin/python -c 'import torch; print(torch.__file__)'
"""
    ran = engine("run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-c", script)
    user, compiler, *torch = ran.stdout.splitlines()
    assert (user, compiler) == ("10001", "no compiler"), ran.stdout
    assert len(torch) <= 1, ran.stdout
    assert not any(path.startswith("/opt/venv") for path in torch)  # the base's own, not a second one
