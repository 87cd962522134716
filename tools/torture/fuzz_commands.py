"""Command lines: every command with options that it has and has not, values right, wrong and missing, paths to nowhere.

The commands run in this process, in a copy of a small checkout. Only what would compute for minutes or reach for the
network is replaced: a backend that says the same to everything, and the making of pictures.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import click
import hypothesis
from click.testing import CliRunner
from hypothesis import strategies as st
from packs import pack_yaml, write_pack
from report_runs import two_runs

from engram import backends
from engram.cli import main
from engram.evaluation import gate
from engram.models import model, tokenizer
from engram.plan.batches import Likely, likeliest
from engram.plan.curve import Answer, TrainingRun
from engram.plan.sharding import Ranks
from engram.show.video import render
from engram.support.errors import EngramError
from engram.support.files import write_bytes
from engram.training import processes
from tools.torture import nasty
from tools.torture.fuzz_folders import CONFIGS, WEIGHTS, safetensors, weights
from tools.torture.hunt import LONGEST, Case, LossError, refuse_raw_output, within

PLACES = (
    "patterns", "colours.yaml", "broken.yaml", "recipe.yaml", "data", "results", "adapters", "adapters/mlx",
    "demo.cast", "model", "nowhere", "nowhere/deeper", "", ".", "..", "/", "~", "~nobody/x", "-", "--", "/dev/null",
    "/dev/full", "pipe", "loop", "dangling", "folder.yaml", "file/in/file", "colours.yaml/x", "x" * 300, "x/" * 3000,
    "a\nb.yaml", "\x1b[31m.yaml", "\udcff.yaml", "\u202ex", "results/mlx", "results/mlx/tuned.json",
    "data/train.jsonl", "a,b", ",", " ", "data,data",
)  # fmt: skip
COMPUTING = 20.0  # seconds: three whole runs of three stages are what a command may do
WORDS = (
    "auto", "mlx", "cuda", "cpu", "tiny", "smollm-135m", "smolm", "owner/name", "a/b/c", "default", "seed", "mlx,cpu",
    "mlx,mlx", "rank=4", "rank=", "=4", "rank", "rank=-1", "steps=1", "epochs=1e300", "max_length=1",
    "batch_size=99999999999", "x=y", "0", "1", "-1", "1.5", "1e9", "nan", "inf", "99999999999999999999", "0x10", "1,2",
    "0-4", "4-0", "0-99999999", "1-", "٣", "20",
)  # fmt: skip


@functools.cache
def commands() -> dict[tuple[str, ...], click.Command]:
    """Every command by its words."""
    found: dict[tuple[str, ...], click.Command] = {(): main}
    for name, command in main.commands.items():
        found[(name,)] = command
        if isinstance(command, click.Group):
            found |= {(name, inner): one for inner, one in command.commands.items()}
    return found


@functools.cache
def checkout(folder: Path) -> Path:
    """A small checkout: patterns, data, results of two runs, an adapter, and files that are none."""
    place = folder / "checkout"
    place.mkdir()
    write_pack(place)
    (place / "patterns").mkdir()
    (place / "patterns" / "colours.yaml").write_text(pack_yaml())
    (place / "broken.yaml").write_text("examples: [{input: a}]\n")
    (place / "recipe.yaml").write_text("rank: 4\nsteps: 2\n")
    two_runs(place / "results")
    shutil.copy(place / "results" / "mlx" / "demo.cast", place / "demo.cast")
    write_bytes(place / "adapters" / "mlx" / "adapter_config.json", nasty.dumps(CONFIGS["mlx"]).encode())
    header, data = weights("mlx")
    write_bytes(place / "adapters" / "mlx" / WEIGHTS["mlx"], safetensors(nasty.dumps(header), data))
    (place / "file").write_text("x")
    (place / "folder.yaml").mkdir()
    (place / "model").mkdir()
    return place


def commands_cases(folder: Path) -> st.SearchStrategy[Case]:
    """A command line; its words are the kind."""
    checkout(folder)
    _tokenizer(model.resolve("tiny"))
    return st.sampled_from(list(commands())).flatmap(
        lambda words: st.builds(Case, st.just(" ".join(("engram", *words))), _arguments(words))
    )


@st.composite
def _arguments(draw: st.DrawFn, words: Sequence[str]) -> list[str]:
    command = commands()[tuple(words)]
    options = [one for one in command.params if isinstance(one, click.Option) and "--help" not in one.opts]
    made = list(words)
    for _ in range(draw(st.integers(0, 4))):
        if options and draw(st.integers(0, 9)):
            option = draw(st.sampled_from(options))
            made.append(draw(st.sampled_from(option.opts)))
            if not option.is_flag and draw(st.integers(0, 19)):
                made.append(draw(_value(option)))
        else:
            made.append(draw(st.one_of(st.sampled_from(("--nothing", "--", "-x", "--help", "extra")), nasty.texts())))
    for argument in (one for one in command.params if isinstance(one, click.Argument)):
        if draw(st.integers(0, 9)):
            made += draw(st.lists(_value(argument), min_size=1, max_size=1 if argument.nargs == 1 else 3))
    return [_typed(text) for text in made]


def _typed(text: str) -> str:
    """As a program gets it: without NUL, and bytes that are no UTF-8 as half characters of their own."""
    return os.fsdecode(text.replace("\0", "").encode("utf-8", "replace" if "\udcff" not in text else "surrogateescape"))


def _value(parameter: click.Parameter) -> st.SearchStrategy[str]:
    """A value of the parameter's kind more often than not."""
    kind, name = parameter.type, parameter.name or ""
    if isinstance(kind, click.Choice):
        own: st.SearchStrategy[str] = st.sampled_from([str(one) for one in kind.choices])
    elif isinstance(kind, click.Path) or name in ("patterns", "model"):
        own = st.sampled_from(PLACES)
    else:
        own = st.sampled_from(WORDS)
    return st.one_of(own, own, st.sampled_from(PLACES), st.sampled_from(WORDS), nasty.texts())


def check_commands(case: Case, folder: Path) -> Any:
    """Run the command in a fresh copy of the checkout: exit code 0, 2 or a verdict's, and harmless output."""
    place = folder / "here"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(checkout(folder), place, symlinks=True)
    (place / "loop").symlink_to("loop")
    (place / "dangling").symlink_to("gone")
    os.mkfifo(place / "pipe")
    before = Path.cwd()
    os.chdir(place)
    try:
        with quick(), within(COMPUTING):
            done = CliRunner().invoke(main, case.content)
    except (hypothesis.errors.StopTest, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise LossError(f"{type(error).__name__}: {error}") from error
    finally:
        os.chdir(before)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise LossError(f"{type(done.exception).__name__}: {done.exception}") from done.exception
    if done.exit_code not in (0, 2, *(gate.EXIT.values() if "gate" in case.content else ())):
        raise LossError(f"exit code {done.exit_code}: {done.output[-300:]}")
    if done.exit_code == 2 and not done.output.strip():
        raise LossError("exit code 2 and not a word")
    if len(done.output) > LONGEST:
        raise LossError(f"{len(done.output)} characters are printed")
    if not done.stderr.startswith("Usage:"):  # click repeats what was typed, to who typed it
        refuse_raw_output(done.output)
    return done if done.exit_code == 0 else None


@contextlib.contextmanager
def quick() -> Iterator[None]:
    """No real model, no network, no film; and its own cache, so that no real run reads the stand-in's."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, XDG_CACHE_HOME=_cache().name))
        for owner, name, value in (
            (backends, "get", lambda name: _Backend()),
            (processes, "launch", lambda *_: None),
            (render, "render", _render),
            (render, "require", lambda: None),
            (tokenizer, "load_tokenizer", _tokenizer),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        yield


@functools.cache
def _cache() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


_tokenizer = functools.lru_cache(maxsize=4)(tokenizer.load_tokenizer)


def _render(casts: Any, out: Path, name: str, kinds: Sequence[str] = render.KINDS, *_: Any) -> list[Path]:
    for kind in kinds:
        write_bytes(out / f"{name}.{kind}", b"a picture")
    return [out / f"{name}.{kind}" for kind in kinds]


class _Backend:
    """Says one token to everything, and learns nothing."""

    WEIGHTS = WEIGHTS["mlx"]

    def load(self, *_: Any) -> None:
        """No session is needed."""

    def device(self) -> str:
        return "none"

    def join(self) -> Ranks:
        return Ranks()

    def train(self, _model: Any, plan: Any, _config: Any, out: Path, progress: Any, *_: Any) -> Any:
        steps = len(plan.batches)
        progress.start(steps)
        header, data = weights("mlx")
        write_bytes(out / self.WEIGHTS, safetensors(nasty.dumps(header), data))
        write_bytes(out / "adapter_config.json", nasty.dumps(CONFIGS["mlx"]).encode())
        return TrainingRun([1.0] * steps, [0.1] * steps, [], 1, 10, "none")

    def generate(self, _session: Any, prompts: Sequence[Any], *_: Any) -> list[Answer]:
        return [Answer([5], True) for _ in prompts]

    def stream(self, *_: Any) -> Iterator[int]:
        return iter([5])

    def teacher(self, *_: Any) -> Any:
        raise EngramError("this backend makes no memory", fix="take another BACKEND")

    def losses(self, _session: Any, examples: Sequence[Any], _encoder: Any, likely: Any = ()) -> list[list[float]]:
        return [[1.0] * len(examples)] * (2 if likely else 1)

    def likely(self, _session: Any, examples: Sequence[Any], _encoder: Any) -> list[Likely]:
        import numpy as np

        return [likeliest(np.zeros((one.answer_length, 100), np.float32)) for one in examples]
