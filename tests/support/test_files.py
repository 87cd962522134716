"""Files that are whole or absent."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from packs import refusal

from engram.support import files
from engram.support.errors import EngramError
from engram.support.files import bundled, new_folder, read_bytes, sha256, sha256_text, write_bytes, write_text, writing

Patch = pytest.MonkeyPatch


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_the_folders_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "a/b/c.txt"
    write_text(path, "é\nü\u2028")
    assert path.read_bytes() == "é\nü\u2028".encode() and names(path.parent) == ["c.txt"]


def test_a_file_gets_the_rights_that_any_program_would_give_it(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
        with new_folder(tmp_path / "b"):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o750


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_alone(error: BaseException, tmp_path: Path, monkeypatch: Patch) -> None:
    write_text(tmp_path / "a", "old")

    def fail(descriptor: int) -> None:
        assert len(names(tmp_path)) == 2  # the new one lies beside the old one
        raise error

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(EngramError if isinstance(error, OSError) else KeyboardInterrupt):
        write_text(tmp_path / "a", "new")
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"


def test_what_the_system_refuses_is_said_with_the_path_and_a_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    fix = "\n  fix: check the path, its permissions and the free disk space"
    said = f"{tmp_path}/folder: cannot write this file: Is a directory{fix}"
    assert str(refusal(write_text, tmp_path / "folder", "x")) == said
    assert "cannot write this file: " in str(refusal(write_text, tmp_path / "file/below", "x"))
    assert "cannot read this file: Is a directory" in str(refusal(read_bytes, tmp_path / "folder"))
    assert "cannot read this file: No such file or directory" in str(refusal(sha256, tmp_path / "nowhere"))
    assert names(tmp_path) == ["file", "folder"]


def make(path: Path, text: str = "new") -> None:
    with new_folder(path) as work:
        (work / "inside").write_text(text)


def test_a_new_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    (tmp_path / "a/deep").mkdir(parents=True)
    (tmp_path / "a/deep/old").write_text("x")
    make(tmp_path / "a")
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["inside"]
    make(tmp_path / "x/y/z")
    assert names(tmp_path / "x/y") == ["z"] and names(tmp_path / "x/y/z") == ["inside"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_the_old_folder(error: type[BaseException], tmp_path: Path) -> None:
    make(tmp_path / "a", "old")
    with pytest.raises(error), new_folder(tmp_path / "a") as work:
        (work / "inside").write_text("new")
        raise error("stop")
    assert names(tmp_path) == ["a"] and (tmp_path / "a/inside").read_text() == "old"


@pytest.mark.parametrize("error", [OSError(16, "busy"), KeyboardInterrupt()])
def test_a_replacement_that_fails_restores_the_folder(error: BaseException, tmp_path: Path, monkeypatch: Patch) -> None:
    make(tmp_path / "a", "old")
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.suffix == ".part":
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(EngramError if isinstance(error, OSError) else KeyboardInterrupt):
        make(tmp_path / "a")
    assert names(tmp_path) == ["a"] and (tmp_path / "a/inside").read_text() == "old"


DEATHS = {
    "while it is written": "with files.new_folder(path) as work: (work / 'inside').write_text('new'); die()",
    "before it takes its place": "files._replace_folder = die; make()",
    "before the old one goes": "files.Path.rename = die; make()",
    "after the old one went": "files.Path.rename = lambda *a: (rename(*a), die()); make()",
    "after the new one came": "files._remove = die; make()",
}


@pytest.mark.parametrize("death", DEATHS)
def test_a_killed_writer_costs_no_folder_and_leaves_nothing_for_long(death: str, tmp_path: Path) -> None:
    make(tmp_path / "a", "old")
    program = f"""
import os, signal
from pathlib import Path
from engram.support import files
rename = files.Path.rename
path = Path({str(tmp_path / "a")!r})
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
def make():
    with files.new_folder(path) as work: (work / "inside").write_text("new")
{DEATHS[death]}
"""
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL and len(names(tmp_path)) == 2
    files.recover(tmp_path / "a", parts=True)
    wanted = "new" if death == "after the new one came" else "old"
    assert names(tmp_path) == ["a"] and (tmp_path / "a/inside").read_text() == wanted


def test_another_writers_files_are_left_alone(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a") as work, writing(tmp_path / "b") as file:
        file.write_text("b")
        (work / "inside").write_text("new")
        files.recover(tmp_path / "a")
        write_text(tmp_path / "b", "another's")
        make(tmp_path / "a", "another's")
    assert names(tmp_path) == ["a", "b"] and (tmp_path / "b").read_text() == "b"
    assert (tmp_path / "a/inside").read_text() == "new"


def test_only_the_left_overs_of_this_name_are_deleted(tmp_path: Path) -> None:
    kept = [".ab.12345678.part", ".a.1234567.part", ".a.12345678.txt", "a.12345678.part", ".a.b.12345678.part"]
    for name in (*kept, ".a.12345678.part"):
        (tmp_path / name).write_text("x")
    files.recover(tmp_path / "a", parts=True)
    assert names(tmp_path) == sorted(kept)


def write_all(texts: dict[Path, str]) -> None:
    with contextlib.ExitStack() as stack:
        for path, text in texts.items():
            stack.enter_context(writing(path)).write_text(text)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_of_several_files_none_is_changed_where_one_fails(step: str, tmp_path: Path, monkeypatch: Patch) -> None:
    write_all({tmp_path / "a": "old", tmp_path / "b": "old"})
    flush = files._flush

    def full(path: Path) -> None:
        if path.name.startswith(".b."):
            raise OSError(28, "No space left on device")
        flush(path)

    if step == "replace":
        (tmp_path / "b").unlink()
        (tmp_path / "b").mkdir()
    else:
        monkeypatch.setattr(files, "_flush", full)
    error = refusal(write_all, {tmp_path / "a": "new", tmp_path / "b": "new"})
    assert f"{tmp_path}/b: cannot write this file" in str(error)
    assert (tmp_path / "a").read_text() == "old" and names(tmp_path) == ["a", "b"]


def test_a_link_that_leads_to_itself_is_refused_as_a_folder_and_replaced_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("a")
    assert "cannot write this folder" in str(refusal(make, tmp_path / "a"))
    write_text(tmp_path / "a", "x")
    assert (tmp_path / "a").read_text() == "x" and not (tmp_path / "a").is_symlink()
    assert "cannot write this folder: a file stands where the folder goes" in str(refusal(make, tmp_path / "a"))


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk/real").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk/real")
    make(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and names(tmp_path / "disk/real") == ["inside"]
    assert names(tmp_path) == ["disk", "link"] and names(tmp_path / "disk") == ["real"]


def test_hashes_are_those_of_the_bytes(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"x" * ((1 << 20) * 2 + 1))
    assert sha256(tmp_path / "a") == sha256_text("x" * ((1 << 20) * 2 + 1))
    assert sha256_text("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_bundled_folders_are_the_checkouts_own_or_the_installed_ones(monkeypatch: Patch, tmp_path: Path) -> None:
    assert (bundled("schemas") / "manifest.schema.json").is_file()
    monkeypatch.setattr(files, "PACKAGE", tmp_path / "site-packages/engram")
    monkeypatch.setattr(files, "BUNDLED", tmp_path / "site-packages/engram/bundled")
    (tmp_path / "site-packages/schemas").mkdir(parents=True)  # somebody else's
    assert bundled("schemas") == tmp_path / "site-packages/engram/bundled/schemas"
