"""Files are whole or absent, whatever happens, and one run at a time works in a folder."""

import ast
import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import cardiac_attrivae
from cardiac_attrivae.cli.main import main
from cardiac_attrivae.runtime import files
from cardiac_attrivae.runtime.files import (
    LOCK,
    atomic_file,
    atomic_folder,
    empty,
    enough_space,
    is_empty,
    locked,
    remove_leftovers,
    write,
)
from cardiac_attrivae.schema import DataError

PACKAGE = Path(cardiac_attrivae.__file__).parent
GONE = 999_999_999
"""No process has this number: systems end at 2^22."""


def names(folder):
    return {path.name for path in folder.iterdir()}


def python(program, *words, **options):
    """Runs a program in a process of its own."""
    command = [sys.executable, "-c", program, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def raised(error):
    raise error


# Whole files --------------------------------------------------------------------------------------


def test_what_is_written_is_what_was_given(tmp_path):
    write(tmp_path / "new" / "a.txt", "Grüße\r\n")
    assert (tmp_path / "new" / "a.txt").read_bytes() == "Grüße\r\n".encode()
    write(tmp_path / "new" / "a.txt", b"\xff")
    assert (tmp_path / "new" / "a.txt").read_bytes() == b"\xff"
    assert names(tmp_path / "new") == {"a.txt"}


def test_the_file_beside_ends_as_the_place_does(tmp_path):
    with atomic_file(tmp_path / "mask.nii.gz") as beside:
        beside.write_bytes(b"x")
        assert beside.parent == tmp_path
        assert beside.name.endswith("mask.nii.gz")
        assert not (tmp_path / "mask.nii.gz").exists()


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_file_and_nothing_beside(tmp_path, error):
    write(tmp_path / "a", "old")
    with pytest.raises(error), atomic_file(tmp_path / "a") as beside:
        beside.write_text("half") and raised(error)
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == {"a"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_is_told_with_the_place(tmp_path, monkeypatch, call):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write(tmp_path / "a", "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OSError, match=rf"cannot write {tmp_path}/a: No space left") as told:
            write(tmp_path / "a", "new")
    assert told.value.errno == errno.ENOSPC
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == {"a"}


def test_an_error_about_another_file_is_left_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"), atomic_file(tmp_path / "a"):
        (tmp_path / "absent").read_text()


def test_the_content_reaches_the_disk_before_its_name(tmp_path, monkeypatch):
    order, fsync, replace = [], os.fsync, os.replace

    def flushed(opened):
        order.append(os.readlink(f"/proc/self/fd/{opened}"))
        fsync(opened)

    def replaced(one, other):
        order.append("renamed")
        replace(one, other)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", replaced)
    with atomic_file(tmp_path / "a") as beside:
        beside.write_text("x")
    assert order == [str(beside), "renamed", str(tmp_path)]


# Whole folders ------------------------------------------------------------------------------------


@pytest.fixture(params=["in one step", "in two"])
def renaming(request, monkeypatch):
    """With the file system at hand, and as on one that cannot let two names change places."""
    if request.param == "in two":
        monkeypatch.setattr(files, "_exchange", lambda *_: False)


@pytest.mark.usefixtures("renaming")
def test_a_folder_takes_its_place_and_the_old_one_is_gone(tmp_path):
    place = tmp_path / "deep" / "store"
    for content in ("first", "second"):
        with atomic_folder(place) as folder:
            assert not list(folder.iterdir())
            write(folder / "sub" / content, content)
        assert names(place / "sub") == {content}
        assert names(place.parent) == {"store"}


@pytest.mark.usefixtures("renaming")
def test_a_folder_that_fails_leaves_the_old_one(tmp_path):
    with atomic_folder(tmp_path / "store") as folder:
        write(folder / "a", "old")
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "store") as folder:
        write(folder / "a", "new") or raised(ZeroDivisionError)
    assert (tmp_path / "store" / "a").read_text() == "old"
    assert names(tmp_path) == {"store"}


def test_a_folder_that_cannot_take_its_place_brings_the_old_one_back(tmp_path, monkeypatch):
    write(tmp_path / "store" / "a", "old")
    rename = os.rename

    def lost(one, other):
        if "new" in [file.read_text() for file in Path(one).iterdir()]:
            raise OSError(errno.EIO, "lost network drive")
        rename(one, other)

    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    monkeypatch.setattr(os, "rename", lost)
    with pytest.raises(OSError, match="lost network"), atomic_folder(tmp_path / "store") as folder:
        write(folder / "a", "new")
    assert (tmp_path / "store" / "a").read_text() == "old"
    assert names(tmp_path) == {"store"}


def test_a_file_system_that_cannot_exchange_is_noticed(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    assert not files._exchange(one, other)  # there is nothing to exchange it with
    assert names(tmp_path) == {"one"}


# Kills --------------------------------------------------------------------------------------------

KILLED = """
import os, sys
from pathlib import Path
from cardiac_attrivae.runtime import files

what, folder, steps = sys.argv[1], Path(sys.argv[2]), 0

def killer(frame, event, number):
    '''Dies before the line of the given number, counted over files.py and this program.'''
    global steps
    if frame.f_code.co_filename not in (files.__file__, "<string>"):
        return None
    if event == "line":
        if steps == last:
            os._exit(9)
        steps += 1
    return killer

def write(content):
    with files.atomic_file(folder / "place") as beside:
        with open(beside, "w") as stream:
            stream.write(content[:2])
            stream.flush()
            stream.write(content[2:])

def write_folder(content):
    with files.atomic_folder(folder / "place") as beside:
        (beside / "a").write_text(content)
        (beside / "b").write_text(content)

def held():
    place = folder / "place"
    if what == "write":
        return {place.read_text()}
    contents = {file.read_text() for file in place.iterdir()}
    return contents if len(list(place.iterdir())) == 2 else set()

seen, last = [], 0
while True:
    globals()[what]("old")
    child = os.fork()
    if not child:
        sys.settrace(killer)
        globals()[what]("new")
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    content = held()
    assert content in ({"old"}, {"new"}), (last, content)
    seen += content
    with files.locked(folder):
        pass
    left = sorted(os.listdir(folder))
    assert left == ["place"], (last, left)
    if os.WEXITSTATUS(status) == 0:
        break
    last += 1
assert seen == sorted(seen, reverse=True)  # old, old, ..., new
print(last, seen.count("old"))
"""


@pytest.mark.parametrize("what", ["write", "write_folder"])
def test_a_kill_before_any_line_leaves_the_old_or_the_new_and_the_next_run_tidies(tmp_path, what):
    done = python(KILLED, what, tmp_path)
    if what == "write_folder" and not exchanges(tmp_path):
        pytest.skip("this file system cannot let two folders change names in one step")
    assert done.returncode == 0, done.stderr
    kills, old = map(int, done.stdout.split())
    assert kills > 15
    assert 10 < old < kills


def exchanges(folder):
    one, other = folder / "one", folder / "other"
    one.mkdir()
    other.mkdir()
    return files._exchange(one, other)


def test_only_what_the_dead_left_is_removed(tmp_path):
    left = (f".part-{GONE}-a.csv", f"figures/.part-{GONE}-b.png", f"parts/.part-{GONE}-c/key")
    kept = ("a.csv", f".part-{os.getpid()}-a.csv", ".part-1-a.csv", ".part-x", "figures/b.png")
    for name in left + kept:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path)
    found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert found == set(kept)
    assert not list((tmp_path / "parts").iterdir())


# Locks --------------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from cardiac_attrivae.runtime.files import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_told_and_a_killed_one_is_no_obstacle(tmp_path):
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLDER, folder], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout.readline() == b"held\n"
            told = rf"{folder} is being worked on .*process {other.pid} on .*wait for it or end it"
            with pytest.raises(DataError, match=told), locked(folder):
                pass
            again = python(HOLDER, folder)
            assert again.returncode
            assert "is being worked on" in again.stderr
        finally:
            other.kill()
    assert names(folder) == {LOCK}
    write(folder / f".part-{GONE}-a", "x")
    with locked(folder):
        assert names(folder) == {LOCK}
        write(folder / "a", "x")
    assert names(folder) == {"a"}


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
    flock, taken = files.fcntl.flock, []

    def removed_meanwhile(lock, how):
        if not taken:
            os.unlink(tmp_path / LOCK)
        taken.append(lock)
        flock(lock, how)

    monkeypatch.setattr(files.fcntl, "flock", removed_meanwhile)
    with locked(tmp_path):
        assert len(taken) == 2
        with pytest.raises(DataError, match="is being worked on"), locked(tmp_path):
            pass


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(files.fcntl, "flock", unknown)
    with pytest.warns(UserWarning, match="file system without locks"), locked(tmp_path):
        write(tmp_path / "a", "x")
    assert (tmp_path / "a").is_file()


def test_emptying_spares_the_lock_and_what_is_named(tmp_path):
    with locked(tmp_path):
        write(tmp_path / "kept" / "a", "x")
        write(tmp_path / "b" / "a", "x")
        write(tmp_path / "a", "x")
        assert not is_empty(tmp_path)
        empty(tmp_path, "kept")
        assert names(tmp_path) == {LOCK, "kept"}


# Room ---------------------------------------------------------------------------------------------


def test_too_little_room_is_told_before_anything_is_written(tmp_path):
    enough_space(tmp_path, 1)
    free = shutil.disk_usage(tmp_path).free
    needed = rf"{tmp_path} needs .* MiB and has .* MiB free; make room"
    with pytest.raises(DataError, match=needed):
        enough_space(tmp_path, 2 * free)


SMALL = """
import resource, signal, sys
from pathlib import Path

def limit():
    '''No file may be larger than this: writing on fails as it does on a full disk.'''
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

"""
WRITERS = {
    "table": """
import pandas as pd
from cardiac_attrivae.runtime.files import write
save = lambda file: write(file, pd.DataFrame(dict(a=range(5000))).to_csv(index=False))
""",
    "checkpoint": """
import torch
from cardiac_attrivae.training.handlers import save as save_state
save = lambda file: save_state(dict(weight=torch.rand(5000)), file)
""",
    "weights": """
import torch
from cardiac_attrivae.runtime.files import write
from safetensors.torch import save as packed
save = lambda file: write(file, packed(dict(weight=torch.rand(5000))))
""",
    "figure": """
from matplotlib.figure import Figure
from cardiac_attrivae.report.style import save as draw
figure = Figure()
figure.subplots().plot(range(9))
save = lambda file: draw(figure, file)
""",
    "gif": """
import numpy as np
from cardiac_attrivae.report.slices import traversal_gif
images = np.random.default_rng(0).random((5, 64, 64))
save = lambda file: traversal_gif(images, ["a"], file)
""",
    "nifti": """
import numpy as np, nibabel as nib
from cardiac_attrivae.data.phantom import _save
image = nib.Nifti1Image(np.random.default_rng(0).random((20, 20, 20)), np.eye(4))
save = lambda file: _save(image, file.with_suffix(".nii.gz"))
""",
    "array": """
import numpy as np
from cardiac_attrivae.runtime.files import atomic_file
def save(file):
    with atomic_file(file.with_suffix(".npy")) as beside:
        np.save(beside, np.zeros(5000))
""",
}
"""Every kind of file that the package writes, in the way it does."""


TRY = """
{writer}
try:
    save(Path(sys.argv[1]) / "{kind}")
except OSError as error:
    print(error)
"""


def test_a_full_disk_ends_every_writer_in_one_clear_error_and_leaves_nothing(tmp_path):
    tries = [TRY.format(writer=writer, kind=kind) for kind, writer in WRITERS.items()]
    done = python("".join([SMALL, "limit()\n", *tries]), tmp_path)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert len(told) == len(WRITERS)
    for kind, line in zip(WRITERS, told, strict=True):
        assert re.search(rf"cannot write .*{kind}.*: (File too large|\d+ requested)", line)
    assert names(tmp_path) == set()


FULL = (
    SMALL
    + """
from cardiac_attrivae.cli import main
limit()
main(sys.argv[1:])
"""
)


@pytest.mark.slow
def test_a_command_on_a_full_disk_ends_with_2_and_the_last_good_state(acdc_tree, tmp_path):
    words = ["preprocess", "--dataset", "acdc", "--source", acdc_tree, "--output", tmp_path / "s"]
    done = python(FULL, *words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(r"Error: .*cannot write .*File too large", done.stderr)
    assert names(tmp_path) <= {".s.partial"}
    assert not [file for file in tmp_path.rglob(".part-*")]
    done = python(
        "import sys; from cardiac_attrivae.cli.main import main; main(sys.argv[1:])", *words
    )
    assert done.returncode == 0, done.stderr
    assert names(tmp_path) == {"s"}


def test_two_commands_into_one_folder(tmp_path):
    words = ("--dataset", "acdc", "--source", str(tmp_path), "--output", str(tmp_path / "s"))
    with locked(tmp_path / ".s.partial"):
        done = CliRunner().invoke(main, ["preprocess", *words])
    assert done.exit_code == 2
    assert f"{tmp_path / 's'} is being worked on by another process" in done.stderr
    assert names(tmp_path) == set()


# Nobody writes past it ----------------------------------------------------------------------------

WRITE = {
    "write_text", "write_bytes", "tofile", "touch", "savefig", "save", "save_file", "savez",
    "savez_compressed", "savetxt", "imsave", "to_csv", "to_json", "to_html", "to_pickle",
    "to_parquet", "to_excel", "to_filename", "dump", "copyfile", "copytree", "copy2", "move",
    "link", "symlink", "symlink_to", "hardlink_to", "mkstemp", "mkdtemp", "NamedTemporaryFile",
    "TemporaryFile", "TemporaryDirectory", "SummaryWriter", "memmap",
}  # fmt: skip
BESIDE_OR_IN_MEMORY = {"beside", "stream", "packed", "archive"}
"""What may be written to: the path that `atomic_file` gives, and streams that end there."""
PAST = {
    "open(log, 'ab', buffering=0)": "a log grows while it is written",
    "SummaryWriter(self.output / 'tensorboard', purge_step=None)":
        "TensorBoard's own files grow while they are written; nothing here reads them",
    "TemporaryDirectory()": "a picture on its way into a notebook",
    "open(os.devnull, 'w')": "where the warnings of a library go",
}  # fmt: skip
"""What writes past `files`, and why it may."""


def writes_past(source):
    """Calls that write a file elsewhere than beside its place."""
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        method = isinstance(call.func, ast.Attribute)
        name = call.func.attr if method else getattr(call.func, "id", "")
        owner = ast.unparse(call.func.value) if method else ""
        given = [*call.args, *(keyword.value for keyword in call.keywords)]
        places = {text.partition("[")[0] for text in (owner, *map(ast.unparse, call.args))}
        if places & BESIDE_OR_IN_MEMORY:
            continue
        if name in ("open", "fdopen", "open_memmap"):
            words = [value.value for value in given if isinstance(value, ast.Constant)]
            modes = [word for word in map(str, words) if re.fullmatch(r"[rwaxbt+]{1,3}", word)]
            writing = any({*mode} & {*"wax+"} for mode in modes)
        elif name in ("replace", "rename"):  # of a path, not of a text, a record or columns
            writing = method and (owner == "os" or len(given) == 1) and not call.keywords
        elif name.startswith("to_"):
            writing = name in WRITE and bool(call.args)
        else:  # ``save`` alone is one of ours, or safetensors' to bytes
            writing = name in WRITE and (method or name != "save")
        if writing:
            yield ast.unparse(call)


def test_nobody_writes_past_files():
    rooms = [file for file in PACKAGE.rglob("*.py") if file.stem != "files"]
    found = [call for file in rooms for call in writes_past(file.read_text(encoding="utf-8"))]
    assert sorted(found) == sorted(PAST), "write with files.write, atomic_file or atomic_folder"


@pytest.mark.parametrize(
    "call",
    [
        "open(file, 'w')", "path.open('wb')", "open(file, mode='a')", "os.fdopen(number, 'w')",
        "table.to_csv(output / 'a.csv', index=False)", "(output / 'a').write_text(text)",
        "file.write_bytes(data)", "np.save(path, array)", "torch.save(state, file)",
        "figure.savefig(path, dpi=150)", "nib.save(image, path)", "save_file(weights, file)",
        "np.savez(file, a=1)", "os.replace(one, other)", "aside.rename(part.folder)",
        "json.dump(about, file)", "shutil.copyfile(one, other)",
    ],
)  # fmt: skip
def test_the_search_knows_the_ways_to_write(call):
    assert list(writes_past(call))
    assert not list(writes_past("pass"))


@pytest.mark.parametrize(
    "call",
    [
        "open(file)", "open(file, 'rb')", "text.replace('a', 'b')", "replace(scan, ed=5)",
        "table.rename(columns={'a': 'b'})", "table.to_csv(index=False)", "np.save(beside, array)",
        "values.to_dict('list')",
    ],
)  # fmt: skip
def test_the_search_leaves_other_calls_alone(call):
    assert not list(writes_past(call))
