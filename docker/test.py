#!/usr/bin/env python3
"""The container in a real engine: builds the CPU image, runs the stages in it, and checks what they leave.

Needs Docker, a compose command and make; as root on Debian it starts an engine if none runs. Where no
registry can be reached, the base image is made with debootstrap, and pip's wheels are fetched on the host, with the
host's own pip settings. Everything that it makes is taken away again. Standard library only: it runs before any setup.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "results" / "reference" / "docker.json"
PULL_SECONDS, START_SECONDS, STEP_SECONDS, REBUILD_SECONDS = 120, 60, 1500, 20
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "engram" / "docker"
STRANGER = 12345  # the caller's uid and gid where root runs this: nobody's
STAGES = {"data": "data", "train": "docker-train", "eval": "eval", "demo": "docker-demo"}
# what the Makefile that calls this hands down, and what the calls in here must not inherit
OF_MAKE = {
    "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "BACKEND", "MODEL", "RECIPE", "METHOD", "SEED", "PATTERNS", "SET", "ARGS",
    "SERVICE",
}  # fmt: skip
GPU_MISSING = "this container was started without a GPU"

# run in the container: every document that the stages wrote, against its schema
VALIDATE = """
from pathlib import Path
from engram.plan import documents as results
from engram.support import schema
import json
for name, kind in (("training", "training"), ("baseline", "result"), ("tuned", "result"), ("comparison", "comparison")):
    results.read(Path("results/cpu") / f"{name}.json", kind, "make demo")
schema.check(json.loads(Path("data/manifest.json").read_text("utf-8")), "manifest", "data/manifest.json")
recall = json.loads(Path("results/cpu/comparison.json").read_text("utf-8"))["tuned"]["recall"]["exact"]
print(f"recall {recall}")
"""


class CheckError(Exception):
    """A check that did not hold."""


class MissingError(Exception):
    """What this machine lacks for the test."""


@dataclass
class Run:
    """What one test run works with: the copy of the checkout, who calls, and the environment of the calls."""

    work: Path
    environment: dict[str, str]
    owner: int | None = None
    groups: list[int] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    leftovers: list[Path] = field(default_factory=list)
    wheels: ThreadingHTTPServer | None = None

    @property
    def checkout(self) -> Path:
        """The copy in which everything runs."""
        return self.work / "checkout"

    @property
    def image(self) -> str:
        """The image that the test makes."""
        return self.environment["ENGRAM_IMAGE"] + ":cpu"

    def call(self, *command: str, seconds: float = STEP_SECONDS) -> tuple[int, str]:
        """Run a command in the copy as the caller; exit code and output, which is also shown."""
        who: dict[str, Any] = {}
        if self.owner is not None:
            who = {"user": self.owner, "group": self.owner, "extra_groups": self.groups}
        done = subprocess.run(
            command, cwd=self.checkout, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", timeout=seconds, check=False, **who,
        )  # fmt: skip
        (self.work / "log").open("a").write(f"$ {' '.join(command)}\n{done.stdout}\n")
        return done.returncode, done.stdout

    def must(self, *command: str) -> str:
        """Run a command that has to succeed; its output."""
        code, out = self.call(*command)
        if code:
            raise CheckError(f"{' '.join(command)} ended with {code}:\n{tail(out)}")
        return out


def main() -> int:
    """0: all checks hold; 1: one does not; 2: this machine cannot run them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--no-record", action="store_true", help=f"do not write {RECORD.relative_to(ROOT)}")
    parser.add_argument(
        "--smoke", action="store_true", help="only build, train four steps, and refuse cuda without GPU"
    )
    parser.add_argument("--minutes", type=int, default=30, help="give up after this long (default: 30)")
    options = parser.parse_args()
    for caught in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(caught, stop)
    signal.alarm(options.minutes * 60)
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="engram-docker-", ignore_cleanup_errors=True) as folder:
            figures = perform(Path(folder), SMOKE if options.smoke else ALL)
    except (MissingError, CheckError) as error:
        print(f"docker test: {error}", file=sys.stderr)
        return 2 if isinstance(error, MissingError) else 1
    figures["total_seconds"] = round(time.monotonic() - started)
    if not (options.no_record or options.smoke):
        RECORD.parent.mkdir(parents=True, exist_ok=True)
        RECORD.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    print(json.dumps(figures, indent=2))
    print(f"docker test: all checks hold ({figures['total_seconds']} s)")
    return 0


def perform(work: Path, checks: Sequence[Callable[[Run], None]]) -> dict[str, Any]:
    """The checks, in order, and the taking away; the figures."""
    work.chmod(0o755)
    with engine(work) as environment:
        run = Run(work, {**environment, "MODEL": "tiny", "HF_HUB_OFFLINE": "1", "HOME": str(work / "home")})
        (work / "home").mkdir()
        become_the_caller(run)
        copy_checkout(run)
        try:
            name_the_machine(run)
            choose_base(run)
            for check in checks:
                check(run)
        finally:
            take_away(run)
    return run.figures


def stop(number: int, _frame: object) -> None:
    """Out of time, or told to end: leave through the blocks that take everything away."""
    raise CheckError("out of time" if number == signal.SIGALRM else "told to end")


def say(text: str) -> None:
    """One line of progress."""
    print(f"docker test: {text}", flush=True)


def tail(text: str, lines: int = 30) -> str:
    """The last lines of an output."""
    return "\n".join(text.rstrip().splitlines()[-lines:])


# --- the engine ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def engine(work: Path) -> Iterator[dict[str, str]]:
    """The environment in which an engine answers; one is started, and stopped again, where none runs."""
    name = f"engram-test-{os.getpid()}"
    environment = {key: value for key, value in os.environ.items() if key not in OF_MAKE}
    environment |= {"ENGRAM_IMAGE": name, "ENGRAM_CACHE": name, "COMPOSE_PROJECT_NAME": name, "SERVICE": "engram-cpu"}
    for name in ("make", "docker"):
        if not shutil.which(name):
            raise MissingError(
                f"{name} is not installed (Debian, Ubuntu: apt-get install docker.io docker-compose make)"
            )
    if answers(environment):
        yield environment
        return
    if os.geteuid() or not shutil.which("dockerd"):
        raise MissingError("no Docker engine answers here: start it, or join its group (sudo usermod -aG docker $USER)")
    socket = f"unix://{work}/docker.sock"
    command = ["dockerd", "--host", socket, "--data-root", f"{work}/engine", "--exec-root", f"{work}/exec"]
    command += ["--pidfile", f"{work}/docker.pid"]
    with (work / "dockerd.log").open("w") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    environment |= {"DOCKER_HOST": socket}
    try:
        until = time.monotonic() + START_SECONDS
        while not answers(environment):
            if daemon.poll() is not None or time.monotonic() > until:
                raise MissingError(
                    f"dockerd does not start:\n{tail((work / 'dockerd.log').read_text('utf-8', 'replace'), 5)}"
                )
            time.sleep(0.5)
        os.chown(work / "docker.sock", 0, STRANGER)
        say("started an engine")
        yield environment
    finally:
        daemon.terminate()
        try:
            daemon.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(daemon.pid, signal.SIGKILL)
        unmount_below(work)


def unmount_below(folder: Path) -> None:
    """What an engine that has ended leaves mounted in its folder, the innermost first."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text("utf-8").splitlines()]
    for place in sorted((place for place in mounts if place.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", place], check=False)


def answers(environment: dict[str, str]) -> bool:
    """Whether an engine answers."""
    return not quiet(["docker", "info"], environment, 30).returncode


def quiet(command: Sequence[str], environment: dict[str, str], seconds: float) -> subprocess.CompletedProcess[str]:
    """A command whose output is kept; one that takes too long counts as failed."""
    try:
        return subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no answer in {seconds} s")


# --- the caller, the checkout, the base ------------------------------------------------------------------------------


def become_the_caller(run: Run) -> None:
    """Root plays a stranger who may use the engine's socket; anyone else is who they are."""
    if os.geteuid():
        return
    socket = Path(run.environment.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://"))
    run.owner = STRANGER
    run.groups = [socket.stat().st_gid] if socket.exists() else []
    os.chown(run.work / "home", STRANGER, STRANGER)


def copy_checkout(run: Run) -> None:
    """What git would commit here, in a folder of the caller's."""
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-coz", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout.decode()
    for name in sorted(set(listed.split("\0")) - {""}):
        if (ROOT / name).is_file():
            (run.checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, run.checkout / name)
    (run.checkout / ".git").mkdir()  # there as for anybody, so that the image must leave it out
    own(run)


def own(run: Run) -> None:
    """Give the copy to the caller."""
    if run.owner is not None:
        for path in (run.checkout, *run.checkout.rglob("*")):
            os.chown(path, run.owner, run.owner, follow_symlinks=False)


def name_the_machine(run: Run) -> None:
    """What the figures were measured on; nothing that names its owner."""
    engine = run.must("docker", "version", "--format", "{{.Server.Version}}").strip()
    plugin = quiet(["docker", "compose", "version"], run.environment, 30)
    compose = plugin if not plugin.returncode else quiet(["docker-compose", "--version"], run.environment, 30)
    run.figures |= {
        "schema_version": 1,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "engine": engine,
        "compose": (compose.stdout.splitlines() or ["none"])[0].partition(", build")[0],
        "cores": os.cpu_count() or 1,
    }


def choose_base(run: Run) -> None:
    """BASE_IMAGE if it is set, else the compose file's where a registry answers, else one made here."""
    base = run.environment.get("BASE_IMAGE", "")
    compose = (ROOT / "docker" / "compose.yaml").read_text("utf-8")
    default = re.findall(r"\$\{BASE_IMAGE:-([^}]+)\}", compose)[-1]
    if not base and quiet(["docker", "pull", default], run.environment, PULL_SECONDS).returncode:
        say(f"no registry answers: making a base image, and fetching the wheels of {requirements().name}")
        base = "debootstrap"
        with ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(bootstrap, run), pool.submit(fetch_wheels, run)]
            for job in jobs:
                job.result()
    if base == "debootstrap":
        base += f" ({platform.freedesktop_os_release()['PRETTY_NAME']})"
    run.figures["base"] = base or default


def requirements() -> Path:
    """The lock of the CPU image."""
    return ROOT / "requirements-cpu.txt"


def bootstrap(run: Run) -> None:
    """A minimal system of this host's own release, imported as the base image."""
    if os.geteuid() or not shutil.which("debootstrap"):
        raise MissingError("no registry answers, and making a base image needs root and debootstrap; or set BASE_IMAGE")
    started = time.monotonic()
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    memory = Path("/dev/shm")  # where there is room for it: unpacking there waits for no disk
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 2**30
    root = Path(tempfile.mkdtemp(prefix="engram-base-", dir=memory if roomy else run.work))
    run.leftovers.append(root)
    packages = CACHE / release  # debootstrap's own packages, for the next time
    packages.mkdir(parents=True, exist_ok=True)
    command = ["debootstrap", "--variant=minbase", "--include=ca-certificates", f"--cache-dir={packages}"]
    done = quiet([*command, release, str(root)], run.environment, 600)
    if done.returncode:
        raise MissingError(f"debootstrap failed:\n{tail(done.stdout + done.stderr, 5)}")
    # what this host trusts, and how it reaches Debian
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.exists():
        shutil.copy(bundle, root / bundle.relative_to("/"))
    name = run.environment["ENGRAM_IMAGE"] + ":base"
    (root / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text(
        "force-unsafe-io\n", "utf-8"
    )  # as the registries' images have it
    command = f"tar -C '{root}' -c . | docker import - {name}"
    done = quiet(["bash", "-o", "pipefail", "-c", command], run.environment, 300)
    if done.returncode:
        raise CheckError(f"docker import failed: {tail(done.stderr, 3)}")
    run.environment |= {"BASE_IMAGE": name, "ENGRAM_BUILD_NETWORK": "host"}
    run.figures["base_seconds"] = round(time.monotonic() - started)


def fetch_wheels(run: Run) -> None:
    """The wheels of the lock, fetched with this host's pip settings for its release's Python; served to the build."""
    started = time.monotonic()
    asked = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = quiet(["/usr/bin/python3", "-c", asked], run.environment, 30).stdout.strip()
    wheels = run.work / "wheels"
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--only-binary=:all:"]
    command += ["--no-deps", "--python-version", version, "-d", str(wheels)]
    for options in (["--require-hashes", "-r", str(requirements())], ["-r", str(ROOT / "requirements-torch.txt")]):
        done = quiet([*command, *options], {**os.environ}, STEP_SECONDS)
        if done.returncode:
            raise MissingError(f"pip cannot fetch the wheels:\n{tail(done.stdout + done.stderr, 5)}")
    run.wheels = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(wheels)))
    Thread(target=run.wheels.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{run.wheels.server_port}"
    run.environment |= {"PIP_OPTIONS": f"--no-index --find-links {address}", "ENGRAM_BUILD_NETWORK": "host"}
    size = sum(path.stat().st_size for path in wheels.iterdir())
    say(f"wheels: {size / 1e6:.0f} MB in {time.monotonic() - started:.0f} s")
    run.figures["wheels_seconds"] = round(time.monotonic() - started)


class Quiet(SimpleHTTPRequestHandler):
    """Hands out files without a word."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


# --- the checks ------------------------------------------------------------------------------------------------------


def build(run: Run) -> None:
    """The image, from nothing."""
    started = time.monotonic()
    run.must("make", "docker-build")
    size = int(run.must("docker", "image", "inspect", "--format", "{{.Size}}", run.image))
    run.figures |= {"build_seconds": round(time.monotonic() - started), "image_gb": round(size / 1e9, 2)}
    say(f"image built in {run.figures['build_seconds']} s, {run.figures['image_gb']} GB")


def stages(run: Run) -> None:
    """Data, training, evaluation and demo, each through the command that a person would type."""
    took = {}
    for name, target in STAGES.items():
        started = time.monotonic()
        command = ["make", target] if target.startswith("docker-") else ["docker/run", "make", target]
        out = run.must(*command)
        took[name] = round(time.monotonic() - started, 1)
        say(f"{' '.join(command)}: {took[name]} s")
    for missing in ("recall", "generalization"):
        if missing not in out:
            raise CheckError(f"the demo does not show {missing}:\n{tail(out)}")
    run.figures["stage_seconds"] = took


def short_training(run: Run) -> None:
    """Four steps of training, by the command that a person would type."""
    started = time.monotonic()
    run.must("make", "docker-train", "SET=steps=4")
    run.figures["stage_seconds"] = {"train": round(time.monotonic() - started, 1)}
    say(f"make docker-train SET=steps=4: {run.figures['stage_seconds']['train']} s")


def documents(run: Run) -> None:
    """What the stages wrote, against the schemas, read by the container's own engram."""
    out = run.must("docker/run", "python", "-c", VALIDATE)
    found = re.search(r"^recall ([0-9.]+)", out, re.M)
    if not found:
        raise CheckError(f"no recall in the comparison:\n{tail(out)}")
    run.figures["recall"] = float(found[1])
    say(f"results are valid, recall {run.figures['recall']:.0%}")


def owners(run: Run) -> None:
    """Nothing in the checkout belongs to anybody but the caller, and the caches are not in it."""
    owner = os.geteuid() if run.owner is None else run.owner
    foreign = [path for path in run.checkout.rglob("*") if path.lstat().st_uid != owner]
    if foreign:
        raise CheckError(f"{len(foreign)} files belong to another user, the first is {foreign[0]}")
    strays = [name for name in ("unsloth_compiled_cache", ".cache", ".venv") if (run.checkout / name).exists()]
    if strays:
        raise CheckError(f"caches in the checkout: {', '.join(strays)}")
    say(f"every file belongs to the caller (uid {owner})")


def no_gpu(run: Run) -> None:
    """Without a GPU the CUDA service, and a container that is asked for cuda, say so in one line and end with 2."""
    if quiet(["nvidia-smi", "-L"], run.environment, 30).returncode == 0 if shutil.which("nvidia-smi") else False:
        say("a GPU is here: what happens without one is not checked")
        return
    # docker/run does not judge an engine elsewhere, so it must take this one for the machine's own
    code, out = run.call("env", "-u", "DOCKER_HOST", "make", "docker-train", "SERVICE=engram")
    if code != 2 or "needs an NVIDIA GPU" not in out or "fix:" not in out:
        raise CheckError(f"make docker-train SERVICE=engram without a GPU ended with {code}:\n{tail(out)}")
    run.must("docker", "tag", run.image, run.image.replace(":cpu", ":cuda"))
    code, out = run.call("env", "DOCKER_CONTEXT=default", "SERVICE=engram", "docker/run", "make", "train")
    if not code or "could not select device driver" not in out:
        raise CheckError(f"the engine started SERVICE=engram without a GPU ({code}):\n{tail(out)}")
    user = ["--user", f"{STRANGER}:{STRANGER}"]
    for command in (["make", "train", "BACKEND=cuda"], ["engram", "train", "--backend", "cuda"]):
        code, out = run.call("docker", "run", "--rm", *user, run.image, *command)
        if code != 2 or GPU_MISSING not in out or "Traceback" in out:
            raise CheckError(f"{' '.join(command)} without a GPU ended with {code}:\n{tail(out)}")
    say("without a GPU, cuda is refused readably, exit code 2")


def rebuild(run: Run) -> None:
    """After a change of the code only the code is copied again."""
    source = run.checkout / "engram" / "__init__.py"
    source.write_text(source.read_text("utf-8") + "\n# changed\n", "utf-8")
    started = time.monotonic()
    run.must("make", "docker-build")
    took = round(time.monotonic() - started, 1)
    user = ["--user", f"{STRANGER}:{STRANGER}"]
    run.must("docker", "run", "--rm", *user, run.image, "grep", "-q", "changed", "engram/__init__.py")
    if took >= REBUILD_SECONDS:
        raise CheckError(f"a rebuild after a change of the code took {took} s, not under {REBUILD_SECONDS} s")
    run.figures["rebuild_seconds"] = took
    say(f"rebuilt after a change of the code in {took} s")


def alone(run: Run) -> None:
    """The image works without a checkout, as any user, and holds none of what .dockerignore keeps out."""
    user = ["--user", f"{STRANGER}:{STRANGER}"]
    run.must("docker", "run", "--rm", *user, run.image, "make", "data")
    out = run.must("docker", "run", "--rm", *user, run.image, "ls", "-A", "/engram")
    found = set(out.split()) & {".git", ".venv", "results", "data", "adapters", "docker", "tests"}
    if found:
        raise CheckError(f"the image holds {', '.join(sorted(found))}")
    say("the image works without a checkout")


def read_only(run: Run) -> None:
    """With READ_ONLY=1 training works, no file of the image can be written, and no privilege is left."""
    call = ["env", "READ_ONLY=1", "docker/run"]
    run.must(*call, "make", "train", "SET=steps=4")
    probe = "touch /opt/engram/x /etc/x /x; touch /tmp/x /cache/x /engram/data/x && echo rest; cat /proc/self/status"
    out = run.must(*call, "bash", "-c", probe)
    refused = out.count("Read-only file system")
    if refused != 3 or "rest" not in out:
        raise CheckError(f"{refused} of 3 places of the image refused to be written:\n{tail(out)}")
    for line in (r"CapEff:\s+0+$", r"CapBnd:\s+0+$", r"NoNewPrivs:\s+1$"):
        if not re.search(line, out, re.M):
            raise CheckError(f"the container keeps a privilege, there is no line {line}:\n{tail(out, 80)}")
    say("READ_ONLY=1: training works, the image cannot be written, no privilege is left")


def take_away(run: Run) -> None:
    """The test's images and volume; an engine that it started goes with its folder."""
    if run.wheels:
        run.wheels.shutdown()
    for folder in run.leftovers:
        shutil.rmtree(folder, ignore_errors=True)
    name = run.environment["ENGRAM_IMAGE"]
    left = quiet(["docker", "ps", "-aq", "--filter", f"label=com.docker.compose.project={name}"], run.environment, 60)
    if left.stdout.strip():  # where the test ended in the middle of a stage
        quiet(["docker", "rm", "-f", *left.stdout.split()], run.environment, 60)
    quiet(["docker", "volume", "rm", "-f", run.environment["ENGRAM_CACHE"]], run.environment, 60)
    for tag in ("cuda", "cpu", "base"):
        quiet(["docker", "image", "rm", "-f", f"{name}:{tag}"], run.environment, 120)


ALL = (build, stages, documents, owners, no_gpu, rebuild, alone, read_only)
SMOKE = (build, short_training, owners, no_gpu, alone)

if __name__ == "__main__":
    sys.exit(main())
