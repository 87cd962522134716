"""The container's files, without an engine: what older builders misread, what is pinned, and the front door's words."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from engram.support import gpu
from engram.support.files import PACKAGE

ROOT = PACKAGE.parent
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text("utf-8")
COMPOSE_TEXT = (ROOT / "docker" / "compose.yaml").read_text("utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
IGNORE = (ROOT / ".dockerignore").read_text("utf-8")
CODE = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.M).replace("\\\n", " ")
CACHES = (
    "HOME", "HF_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "UNSLOTH_COMPILE_LOCATION", "XDG_CACHE_HOME",
)  # fmt: skip
INSTRUCTIONS = [line.split(maxsplit=1) for line in CODE.splitlines() if line.strip()]


def arguments(word: str) -> list[str]:
    return [rest for name, rest in INSTRUCTIONS if name == word]


@pytest.mark.parametrize("newer", [r"RUN\s+--", r"COPY\s+--(?!from=)", r"<<", r"^# *syntax=", r"^ADD "])
def test_nothing_that_the_classic_builder_lacks(newer: str) -> None:
    assert not re.search(newer, DOCKERFILE, re.M)


def test_the_packages_are_those_of_the_lock_and_held_by_its_hashes() -> None:
    assert len(re.findall(r"pip install", CODE)) == 1
    assert "--no-deps" in CODE and '$install --require-hashes -r "/opt/engram/${REQUIREMENTS}"' in CODE
    assert len(re.findall(r"\$install", CODE)) == 2 and "$install -r /opt/engram/requirements-torch.txt" in CODE


def test_the_container_has_no_privilege_and_can_be_read_only() -> None:
    read_only = yaml.safe_load((ROOT / "docker" / "read-only.yaml").read_text("utf-8"))["services"]
    for name, service in COMPOSE["services"].items():
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], name
        assert service["pids_limit"] and "privileged" not in service and service["user"].startswith("${ENGRAM_UID")
        assert read_only[name]["read_only"] is True and read_only[name]["tmpfs"] == ["/tmp:mode=1777"]


@pytest.mark.parametrize("name", CACHES)
def test_every_cache_lies_in_the_volume(name: str) -> None:
    assert re.search(rf"\b{name}=/cache/\w+", arguments("ENV")[0])


def test_the_driver_that_is_asked_for_is_the_gpu_check_s() -> None:
    assert re.search(rf"\bMINIMUM_DRIVER={gpu.DRIVER}\b", arguments("ENV")[0])


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = COMPOSE["services"][name]
    return found


def test_the_gpu_service_reserves_every_nvidia_gpu_and_the_other_none() -> None:
    reserved = service("engram")["deploy"]["resources"]["reservations"]["devices"]
    assert reserved == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
    assert service("engram")["ulimits"] == {"memlock": -1, "stack": 67108864}
    assert not {"deploy", "ulimits"} & set(service("engram-cpu"))


def test_each_service_names_its_backend_and_its_lock() -> None:
    found = {name: service(name)["build"]["args"] for name in COMPOSE["services"]}
    assert {frozenset(args) for args in found.values()} == {
        frozenset(line.partition("=")[0] for line in arguments("ARG"))
    }
    assert (found["engram"]["BACKEND"], found["engram"]["REQUIREMENTS"]) == ("cuda", "requirements-gpu.txt")
    assert (found["engram-cpu"]["BACKEND"], found["engram-cpu"]["REQUIREMENTS"]) == ("cpu", "requirements-cpu.txt")


def test_nothing_that_docker_compose_1_29_refuses() -> None:
    assert set(COMPOSE) <= {"x-service", "services", "volumes"}  # `name:` came later
    refused = {"pull_policy", "gpus", "develop", "attach", "annotations"}
    for name in COMPOSE["services"]:
        assert not set(service(name)) & refused


def test_the_build_sees_only_what_is_let_in() -> None:
    rules = [line for line in IGNORE.splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    assert not let_in & {".git", ".venv", "results", "data", "adapters", "tests", "."}
    copied = {word for line in arguments("COPY") if "--from" not in line for word in line.split()[:-1]}
    for source in copied - {"${REQUIREMENTS}"}:
        assert source in let_in or any(fnmatch.fnmatch(source.split("/")[0], name) for name in let_in), source


def stub(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def door(tmp_path: Path) -> Path:
    """A folder with a checkout, the image's packages, a cache, and an empty `bin` for stub commands."""
    for name in ("bin", "checkout", "packages", "cache"):
        (tmp_path / name).mkdir()
    for name in ("bash", "cat", "cmp", "head", "id", "mkdir", "timeout", "touch"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or f"/bin/{name}")
    for name in ("packages", "checkout"):
        (tmp_path / name / "requirements-gpu.txt").write_text("torch==1\n")
    (tmp_path / "packages" / ".ready-cuda").touch()
    os.utime(tmp_path / "packages" / ".ready-cuda", (1, 1))
    stub(tmp_path / "bin", "stage", 'echo "ran: $*"')
    return tmp_path


def enter(door: Path, *command: str, backend: str = "cuda") -> tuple[int, str, str]:
    environment = {name: str(door / "cache" / name) for name in CACHES}
    environment |= {"PATH": str(door / "bin"), "BACKEND": backend, "MINIMUM_DRIVER": "570"}
    environment["ENGRAM_VENV"] = str(door / "packages")
    done = subprocess.run(
        ["/bin/bash", str(ROOT / "docker" / "entrypoint.sh"), *command],
        cwd=door / "checkout", env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def driver(door: Path, says: str, code: int = 0) -> None:
    stub(door / "bin", "nvidia-smi", f"echo '{says}'; exit {code}")


@pytest.mark.parametrize(
    "command", [("stage", "BACKEND=cuda"), ("stage", "--backend", "cuda"), ("stage", "--backend=cuda")]
)
def test_the_command_s_backend_counts_before_the_image_s(door: Path, command: tuple[str, ...]) -> None:
    assert enter(door, *command, backend="cpu")[0] == 2
    assert enter(door, *(word.replace("cuda", "cpu") for word in command), backend="cuda")[0] == 0


@pytest.mark.parametrize(("version", "code"), [("535.183.01", 2), ("569.99", 2), ("570.26", 0), ("1000.1", 0)])
def test_a_driver_that_is_too_old_is_named_with_what_is_needed(door: Path, version: str, code: int) -> None:
    driver(door, version)
    found, _, err = enter(door, "stage")
    assert found == code
    assert (f"the NVIDIA driver is {version}, this image's CUDA needs 570 or newer" in err) == bool(code)


def test_a_shell_is_let_in_without_a_gpu(door: Path) -> None:
    code, out, err = enter(door, "bash", "-c", "echo inside")
    assert (code, out) == (0, "inside\n")
    assert "started without a GPU" in err


def test_the_stamp_is_newer_than_the_checkout(door: Path) -> None:
    enter(door, "stage", backend="cpu")
    stamp, asked = door / "packages" / ".ready-cuda", door / "checkout" / "requirements-gpu.txt"
    assert stamp.stat().st_mtime >= asked.stat().st_mtime


NVML = "Failed to initialize NVML: Driver/library version mismatch"
WRONG: list[tuple[Callable[[Path], object], str, list[str]]] = [
    (lambda door: None, "cuda", ["engram: BACKEND=cuda, but this container was started without a GPU\n",
     "\n  fix: start it with make docker-train, or docker run --gpus all;"]),
    (lambda door: driver(door, NVML, 18), "cuda", [f"does not answer: {NVML}\n  fix: ", "reboot"]),
    (lambda door: (door / "cache" / "HF_HOME").write_text("in the way"), "cpu",
     ["/cache/HF_HOME is not writable", "ENGRAM_CACHE=my-cache"]),
    (lambda door: (door / "checkout" / "requirements-gpu.txt").write_text("torch==2\n"), "cpu",
     ["engram: requirements-gpu.txt is not the one that this image was made from\n  fix: make docker-build\n"]),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "backend", "said"), WRONG)
def test_what_is_wrong_in_the_container_is_said_with_its_remedy(
    door: Path, spoil: Callable[[Path], object], backend: str, said: list[str]
) -> None:
    spoil(door)
    code, out, err = enter(door, "stage", backend=backend)
    assert (code, out, len(err.splitlines())) == (2, "", 2) and all(one in err for one in said), err


def host(tmp_path: Path, *command: str, **environment: str) -> tuple[int, str, str]:
    """docker/run with only the commands that lie in `tmp_path`."""
    for name in ("bash", "dirname", "grep", "id", "env", "cat"):
        if not (tmp_path / name).exists():
            (tmp_path / name).symlink_to(shutil.which(name) or f"/bin/{name}")
    done = subprocess.run(
        ["/bin/bash", str(ROOT / "docker" / "run"), *command], env={"PATH": str(tmp_path), **environment},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


ENGINE = """case "$*" in "compose version") exit %d ;; info*) echo runc; exit 0 ;; esac
echo "docker $*"; echo "$ENGRAM_UID:$ENGRAM_GID\""""


def test_compose_v2_runs_the_command_as_the_caller(tmp_path: Path) -> None:
    stub(tmp_path, "docker", ENGINE % 0)
    code, out, err = host(tmp_path, "make", "demo", SERVICE="engram-cpu")
    assert (code, err) == (0, "")
    call = "docker compose -p engram -f docker/compose.yaml run --rm -T engram-cpu make demo"
    assert out == f"{call}\n{os.getuid()}:{os.getgid()}\n"


def test_compose_1_29_is_found_where_there_is_no_plugin(tmp_path: Path) -> None:
    stub(tmp_path, "docker", ENGINE % 1)
    stub(tmp_path, "docker-compose", 'echo "1.29 $*"')
    code, out, _ = host(tmp_path, "--build", SERVICE="engram-cpu")
    assert (code, out) == (0, "1.29 -p engram -f docker/compose.yaml build engram-cpu\n")


@pytest.mark.parametrize(
    ("stubs", "service_name", "what"),
    [
        ({}, "engram-cpu", "docker is not installed"),
        ({"docker": "exit 1"}, "engram-cpu", "no Docker engine answers"),
        ({"docker": ENGINE % 1}, "engram-cpu", 'neither "docker compose" nor "docker-compose" is installed'),
        ({"docker": ENGINE % 0}, "engram", "SERVICE=engram needs an NVIDIA GPU"),
        ({"docker": ENGINE % 0, "nvidia-smi": "exit 9"}, "engram", "SERVICE=engram needs an NVIDIA GPU"),
        ({"docker": ENGINE % 0, "nvidia-smi": "echo GPU 0"}, "engram", "nvidia-container-toolkit is not installed"),
        ({"docker": ENGINE % 0}, "engram-gpu", "unknown SERVICE 'engram-gpu'; known are engram, engram-cpu"),
    ],
)
def test_what_the_host_lacks_is_said_with_its_remedy(
    tmp_path: Path, stubs: dict[str, str], service_name: str, what: str
) -> None:
    for name, text in stubs.items():
        stub(tmp_path, name, text)
    code, out, err = host(tmp_path, "make", "train", SERVICE=service_name)
    assert (code, out) == (2, "")
    first, second = err.splitlines()
    assert first.startswith("engram: ") and what in first
    assert second.startswith("  fix: ")


def test_with_gpu_and_toolkit_the_gpu_service_runs(tmp_path: Path) -> None:
    stub(tmp_path, "docker", ENGINE % 0)
    stub(tmp_path, "nvidia-smi", "echo GPU 0: NVIDIA")
    stub(tmp_path, "nvidia-container-runtime-hook", "exit 0")
    call = "docker compose -p engram -f docker/compose.yaml run --rm -T engram make"
    assert host(tmp_path, "make", "train")[1].startswith(call)


def test_scripts_can_be_run_and_parse() -> None:
    for name in ("docker/run", "docker/entrypoint.sh", ".ci/docker"):
        assert os.access(ROOT / name, os.X_OK), name
        subprocess.run(["/bin/bash", "-n", str(ROOT / name)], check=True)
