"""`engram train` in several processes: the launchers of the field around it, and one end for all of them.

`mlx.launch` for MLX, `torchrun` for cuda and cpu. On other machines both run over ssh, from the same folder with the
same environment; `mlx.launch` does that by itself, for torchrun it is done here.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from engram import __version__
from engram.support import gpu, machine, signals
from engram.support.errors import EngramError
from engram.support.text import shorten, visible
from engram.training import tether

MOST = 64  # processes on one machine
GRACE = 5.0  # seconds in which the others may end by themselves when one has died
PORTS = {"mlx": 32323, "torch": 29400}  # the launchers' own; MASTER_PORT names another
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "LogLevel=ERROR")
SHOWN = 6000  # characters of what dead processes and their launcher said
WIDE = 100  # columns that are drawn where nobody says how many there are
GUIDE = "docs/distributed.md"


@dataclass(frozen=True)
class Launch:
    """A command of engram's, without its first word, on `processes` processes of each host; no host: this machine."""

    backend: str
    processes: int
    hosts: tuple[str, ...]
    arguments: tuple[str, ...]

    @property
    def world(self) -> int:
        """All processes together."""
        return self.processes * max(1, len(self.hosts))

    @property
    def elsewhere(self) -> list[str]:
        """The hosts that are reached over ssh: the first is this machine, whatever its name is."""
        return [host for host in dict.fromkeys(self.hosts[1:]) if host != self.hosts[0] and not _is_loopback(host)]


def hosts_of(text: str) -> tuple[str, ...]:
    """The hosts in `a,b`; none in an empty text. Raises EngramError for a name that cannot be one."""
    hosts = tuple(name.strip() for name in text.split(",")) if text.strip() else ()
    if wrong := [name for name in hosts if not name or name.startswith("-") or set(name) & set(" \t\n'\"")]:
        raise EngramError(f"no host is called {wrong[0]!r}", where="HOSTS", fix="HOSTS=first,second without blanks")
    return hosts


def run(launch: Launch) -> None:
    """Run the command in all its processes; when it returns all have ended well.

    Raises the EngramError of the process that had one, one for a process that died, and Stopped for a signal, which
    lets the step in progress end. No process of this machine outlives this.
    """
    check(launch)
    with tempfile.TemporaryDirectory(prefix="engram-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        line = tether.Tether(folder)
        with (folder / "stderr").open("w+b") as said:
            with line.held(), _started(launch, folder, said) as running, signals.patient():
                _wait(running, line)
            said.seek(0)
            _conclude(launch, line, said.read().decode("utf-8", "replace"))


def commands(launch: Launch, folder: Path) -> list[list[str]]:
    """The launchers to start on this machine; `folder` is for their files."""
    inner = [*launch.arguments, "--backend", launch.backend]
    if launch.backend == "mlx":
        return [_mlx_launch(launch, folder, inner)]
    torchrun = [_script("torchrun"), "--nproc-per-node", str(launch.processes)]
    module = ["-m", "engram.cli", *inner]
    if not launch.hosts:
        return [[*torchrun, "--standalone", *module]]
    # not c10d's rendezvous, which ranks the machines as it likes: the first is here, where the results go
    ports = ["--master-addr", _address(launch.hosts[0]), "--master-port", str(_port(launch, "torch", 1))]
    nodes = [
        [*torchrun, "--nnodes", str(len(launch.hosts)), "--node-rank", str(i), *ports, *module]
        for i in range(len(launch.hosts))
    ]
    return [_over_ssh(h, n, launch) if h in launch.elsewhere else n for h, n in zip(launch.hosts, nodes, strict=True)]


def check(launch: Launch) -> None:
    """Raise an EngramError where the processes could not run: their number, GPUs, hosts, the launcher, ssh."""
    if not 1 <= launch.processes <= MOST:
        what = f"{launch.processes} processes on a machine; from 1 to {MOST} run"
        raise EngramError(what, where="NPROC", fix="NPROC=2")
    if launch.backend == "cuda" and (cards := _cards()) < launch.processes:
        what = f"{launch.processes} processes need a GPU each, and {cards} can be used here"
        raise EngramError(what, where="NPROC", fix=f"NPROC={max(1, cards)}, and look at CUDA_VISIBLE_DEVICES")
    _script("mlx.launch" if launch.backend == "mlx" else "torchrun")
    addresses = [_address(host) for host in launch.hosts]
    if launch.elsewhere:
        if _is_loopback(addresses[0]):
            what = f"{launch.hosts[0]} is {addresses[0]}, where no other machine reaches this one"
            raise EngramError(what, where="HOSTS", fix="name this machine first, by its address in the network")
        if not shutil.which("ssh"):
            raise EngramError(
                "ssh is not installed", where="HOSTS", fix="install OpenSSH's client, or go without HOSTS"
            )
        for host in launch.elsewhere:
            _check_host(host)


def _check_host(host: str) -> None:
    """Raise an EngramError where a host cannot be reached, or has no engram of this version at the same place."""
    asked = f"{shlex.quote(sys.executable)} -c 'import engram; print(engram.__version__)'"
    try:
        done = subprocess.run(
            [*SSH, host, f"cd {shlex.quote(str(Path.cwd()))} && {asked}"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=60, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise EngramError("it does not answer within a minute", where=f"HOSTS, {host}", fix=f"ssh {host}") from None
    reason = visible(shorten(done.stderr.strip().rpartition("\n")[2], 200))
    if done.returncode == 255:
        fix = f"ssh {host} must work without a password ({GUIDE})"
        raise EngramError(f"ssh does not reach it: {reason}", where=f"HOSTS, {host}", fix=fix)
    if done.returncode or done.stdout.strip() != __version__:
        what = (
            f"there is no engram {__version__} at {Path.cwd()}: {reason or visible(shorten(done.stdout.strip(), 60))}"
        )
        raise EngramError(what, where=f"HOSTS, {host}", fix="the same checkout at the same place, and make setup there")


def _mlx_launch(launch: Launch, folder: Path, inner: Sequence[str]) -> list[str]:
    hosts = launch.hosts or ("127.0.0.1",)
    named = [
        {"ssh": host if host in launch.elsewhere else "127.0.0.1", "ips": [_address(host)]}
        for host in hosts
        for _ in range(launch.processes)
    ]
    (folder / "hosts").write_text(json.dumps(named), "utf-8")
    settings = [word for pair in _settings(launch).items() for word in ("--env", "=".join(pair))]
    port = str(_port(launch, "mlx", launch.world))
    words = [_script("mlx.launch"), "--backend", "ring", "--hostfile", str(folder / "hosts")]
    words += ["--starting-port", port, "--cwd", str(Path.cwd()), *settings]
    return [*words, "--", sys.executable, "-m", "engram.cli", *inner]


def _settings(launch: Launch) -> dict[str, str]:
    """The environment that must be the same on every machine, since numbers depend on it; torch shares the cores."""
    threads = {} if launch.backend == "mlx" else {"OMP_NUM_THREADS": str(max(1, _cores() // launch.processes))}
    return threads | machine.environment()


def _over_ssh(host: str, command: Sequence[str], launch: Launch) -> list[str]:
    """The command on another machine; it gets a terminal so that it ends with the connection."""
    settings = [f"{name}={value}" for name, value in _settings(launch).items()]
    there = f"cd {shlex.quote(str(Path.cwd()))} && exec env {shlex.join([*settings, *command])}"
    return [*SSH, "-tt", host, there]


@contextlib.contextmanager
def _started(launch: Launch, folder: Path, said: IO[bytes]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The launchers, running; none of them outlives the block.

    Their input is a pipe that nobody writes: at the end of a file mlx.launch would read it again and again.
    """
    environment = {**os.environ, **_settings(launch), tether.VARIABLE: str(folder), "TMPDIR": str(folder / "tmp")}
    if sys.stdout.isatty() and shutil.get_terminal_size().columns >= WIDE:
        environment.setdefault("TTY_COMPATIBLE", "1")  # mlx.launch passes on what it reads from a pipe
    (folder / "tmp").mkdir()
    running: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands(launch, folder):
            out = said if command[0] == SSH[0] else None
            running.append(
                subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=out, stderr=said, env=environment, start_new_session=True
                )
            )
        yield running
    finally:
        for one in running:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(one.pid, signal.SIGKILL)
            one.wait()


def _wait(running: Sequence[subprocess.Popen[bytes]], line: tether.Tether) -> None:
    """Until all launchers have ended; not longer than GRACE after one process was lost or the first one ended.

    Passes a signal on, once.
    """
    passed, end = False, float("inf")
    while any(one.poll() is None for one in running) and time.monotonic() < end:
        time.sleep(0.1)
        if (number := signals.heard()) and not passed:
            passed = line.pass_on(number)
        if line.is_broken() or 0 in line.reports() or any(one.poll() for one in running):
            end = min(end, time.monotonic() + GRACE)


def _conclude(launch: Launch, line: tether.Tether, said: str) -> None:
    """Raise what the processes ended with, unless the first, which writes, ended well."""
    reports = line.reports()
    if 0 in reports and reports[0]["code"] == 0:
        return
    if not signals.heard():
        line.is_broken()  # where one died, the launcher may have stopped the others before anybody looked
    if 0 in reports and reports[0]["code"] != 2 and (signals.heard() or not line.lost):
        raise signals.Stopped(reports[0]["code"] - 128, reports[0]["what"])
    errors = [(rank, report) for rank, report in sorted(reports.items()) if report["code"] == 2]
    for rank, report in errors:
        if report["what"] != tether.GONE:
            where = report["where"] if rank == 0 else f"process {rank}: {report['where']}".rstrip(": ")
            raise EngramError(report["what"], where=where, fix=report["fix"], problems=report["problems"])
    if not errors and not line.lost and (number := signals.heard()):
        raise signals.Stopped(number)
    sys.stderr.write(said[-SHOWN:])
    lost = ", ".join(str(rank) for rank in sorted(line.lost)) or "on another machine, or before it began"
    what = f"of {launch.world} processes one died ({lost}), and the others were ended"
    fix = "what it said stands above; the same command goes on from the last checkpoint, if there is one"
    raise EngramError(what, where="training", fix=fix)


def _script(name: str) -> str:
    """The launcher of this Python's environment; raises EngramError where it is not installed."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if found := shutil.which(name, path=beside):
        return found
    package = "mlx" if name == "mlx.launch" else "torch"
    fix = f"make setup installs {package}, and {name} with it; without it: NPROC=1"
    raise EngramError(f"{name} is not installed", where="NPROC", fix=fix)


def _cores() -> int:
    return os.cpu_count() or 1


def _cards() -> int:
    """The GPUs that may be used."""
    visible_ones = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = len(gpu.examine().cards)
    return found if visible_ones is None else min(found, len([one for one in visible_ones.split(",") if one.strip()]))


def _address(host: str) -> str:
    """The IPv4 address of a host; raises EngramError where there is none."""
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        what = f"no such host: {error.strerror}"
        raise EngramError(what, where=f"HOSTS, {host}", fix="its address works too") from error


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _port(launch: Launch, launcher: str, count: int) -> int:
    """The first of `count` ports: the same every time where a firewall may stand between, else any that are free."""
    if given := os.environ.get("MASTER_PORT", ""):
        if not given.isdigit() or not 0 < int(given) < 65536 - count:
            raise EngramError(f"{given!r} is no port", where="MASTER_PORT", fix=f"MASTER_PORT={PORTS[launcher]}")
        return int(given)
    if launch.elsewhere:
        return PORTS[launcher]
    for _ in range(100):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, OverflowError):
            first = _bound(stack, 0)
            for place in range(1, count):
                _bound(stack, first + place)
            return first
    raise EngramError(f"no {count} ports in a row are free here", where="NPROC", fix="MASTER_PORT names the first one")


def _bound(stack: contextlib.ExitStack, port: int) -> int:
    """A socket that holds a port of this machine for the time of `stack`; 0 is any."""
    one = stack.enter_context(socket.socket())
    one.bind(("127.0.0.1", port))
    return int(one.getsockname()[1])
