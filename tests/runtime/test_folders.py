"""One run at a time works in a folder."""

import errno
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from cardiac_attrivae.cli.main import main
from cardiac_attrivae.runtime import folders
from cardiac_attrivae.runtime.files import write
from cardiac_attrivae.runtime.folders import LOCK, check_unused, empty, in_use, is_empty, locked
from cardiac_attrivae.schema import DataError


def names(folder):
    return {path.name for path in folder.iterdir()}


HOLDER = """
import sys, time
from pathlib import Path
from cardiac_attrivae.runtime.folders import in_use, locked
with globals()[sys.argv[2]](Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_told_and_a_killed_one_is_no_obstacle(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", HOLDER, folder, "locked"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout.readline() == b"held\n"
            told = rf"{folder} is being worked on .*process {other.pid} on .*wait for it or end it"
            with pytest.raises(DataError, match=told), locked(folder):
                pass
            again = subprocess.run(command, capture_output=True, text=True, timeout=120)
            assert again.returncode
            assert "is being worked on" in again.stderr
        finally:
            other.kill()
    assert names(folder) == {LOCK}
    write(folder / ".part-0123456789abcdef-a", "x")
    with locked(folder):
        assert names(folder) == {LOCK}
        write(folder / "a", "x")
    assert names(folder) == {"a"}


@pytest.mark.parametrize("how", ["locked", "in_use"])
def test_a_folder_in_which_another_process_works_is_not_replaced(tmp_path, how):
    inner = tmp_path / "run" / "refiner"
    inner.mkdir(parents=True)
    command = [sys.executable, "-c", HOLDER, inner, how]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout.readline() == b"held\n"
            told = f"another process works in {inner} .process {other.pid} on .*wait for it or end"
            with pytest.raises(DataError, match=told):
                check_unused(tmp_path / "run")
            with locked(tmp_path / "run"), pytest.raises(DataError, match=told):
                check_unused(tmp_path / "run")  # whose own lock does not count
        finally:
            other.kill()
    check_unused(tmp_path / "run")  # what a killed one left is no obstacle


def test_several_use_a_folder_that_nobody_has_locked(tmp_path):
    with in_use(tmp_path), in_use(tmp_path):
        assert is_empty(tmp_path)
    assert names(tmp_path) == set()
    with locked(tmp_path), pytest.raises(DataError, match=f"{tmp_path} is being worked on"), \
            in_use(tmp_path):  # fmt: skip
        pass
    with locked(tmp_path / ".a.partial"):
        told = "a is being worked on by another process"
        with pytest.raises(DataError, match=told), in_use(tmp_path, tmp_path / ".a.partial", "a"):
            pass
    with in_use(tmp_path / "read-only or absent"):
        pass
    assert names(tmp_path) == set()


def test_children_that_inherit_it_keep_the_lock(tmp_path):
    with locked(tmp_path) as lock:
        child = subprocess.Popen(["sleep", "60"], pass_fds=(lock,))
    try:
        with pytest.raises(DataError, match="is being worked on"), locked(tmp_path):
            pass
    finally:
        child.kill()
        child.wait()
    with locked(tmp_path):
        pass
    assert is_empty(tmp_path)


def test_a_lock_leaves_nothing_behind(tmp_path):
    with locked(tmp_path / "new" / "run"):
        assert is_empty(tmp_path / "new" / "run")
    assert names(tmp_path / "new") == set()
    write(tmp_path / "file", "keep")
    with pytest.raises(DataError, match="is a file"), locked(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "keep"


def test_a_lock_that_was_removed_while_it_was_waited_for_is_taken_anew(tmp_path, monkeypatch):
    lock_descriptor, taken = folders.lock_descriptor, []

    def removed_meanwhile(lock, blocking):
        if not taken:
            os.unlink(tmp_path / LOCK)
        taken.append(lock)
        return lock_descriptor(lock, blocking=blocking)

    monkeypatch.setattr(folders, "lock_descriptor", removed_meanwhile)
    with locked(tmp_path):
        assert len(taken) == 2
        with pytest.raises(DataError, match="is being worked on"), locked(tmp_path):
            pass


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch):
    def unknown(*_, **__):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(folders, "lock_descriptor", unknown)
    with pytest.warns(UserWarning, match="file system without locks"), locked(tmp_path):
        write(tmp_path / "a", "x")
    assert (tmp_path / "a").is_file()


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_lock_that_is_a_link_is_refused_and_its_file_stays(tmp_path, link):
    """A run folder that somebody sends may hold any link."""
    write(tmp_path / "thesis.tex", "years of work")
    (tmp_path / "run").mkdir()
    link(tmp_path / "thesis.tex", tmp_path / "run" / LOCK)
    with pytest.raises(DataError, match=rf"run/{LOCK} is .*; remove it"), locked(tmp_path / "run"):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert names(tmp_path / "run") == {LOCK}


def test_a_link_that_is_put_there_at_the_last_moment_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(type(tmp_path), "is_symlink", lambda _: False)
    (tmp_path / LOCK).symlink_to(tmp_path / "absent")
    with pytest.raises(OSError, match="symbolic links"), locked(tmp_path):
        pass
    assert not (tmp_path / "absent").exists()


def test_a_lock_on_a_full_disk_names_its_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    no_space = rf"cannot write {tmp_path}/{LOCK}: No space"
    with pytest.raises(OSError, match=no_space), locked(tmp_path):
        pass


def test_emptying_spares_the_lock_and_what_is_named(tmp_path):
    with locked(tmp_path):
        write(tmp_path / "kept" / "a", "x")
        write(tmp_path / "b" / "a", "x")
        write(tmp_path / "a", "x")
        assert not is_empty(tmp_path)
        empty(tmp_path, "kept")
        assert names(tmp_path) == {LOCK, "kept"}


def test_two_commands_into_one_folder(tmp_path):
    (tmp_path / "scans").mkdir()
    source, output = str(tmp_path / "scans"), str(tmp_path / "s")
    words = ("--dataset", "acdc", "--source", source, "--output", output)
    with locked(tmp_path / ".s.partial"):
        done = CliRunner().invoke(main, ["preprocess", *words])
    assert done.exit_code == 2
    assert f"{tmp_path / 's'} is being worked on by another process" in done.stderr
    assert names(tmp_path) == {"scans"}
