"""Files and folders are written atomically, whatever happens."""

import ast
import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cardiac_attrivae
from cardiac_attrivae.runtime import files
from cardiac_attrivae.runtime.files import (
    atomic_file,
    atomic_folder,
    enough_space,
    remove_leftovers,
    write,
)
from cardiac_attrivae.schema import DataError

PACKAGE = Path(cardiac_attrivae.__file__).parent


def names(folder):
    return {path.name for path in folder.iterdir()}


def python(program, *words, **options):
    """Runs a program in a process of its own."""
    command = [sys.executable, "-c", program, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def raised(error):
    raise error


# Files --------------------------------------------------------------------------------------------


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


# Folders ------------------------------------------------------------------------------------------


def test_a_folder_takes_its_place_and_the_old_one_is_gone(tmp_path):
    place = tmp_path / "deep" / "store"
    for content in ("first", "second"):
        with atomic_folder(place) as folder:
            assert not list(folder.iterdir())
            write(folder / "sub" / content, content)
        assert names(place / "sub") == {content}
        assert names(place.parent) == {"store"}


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

    monkeypatch.setattr(os, "rename", lost)
    with pytest.raises(OSError, match="lost network"), atomic_folder(tmp_path / "store") as folder:
        write(folder / "a", "new")
    assert (tmp_path / "store" / "a").read_text() == "old"
    assert names(tmp_path) == {"store"}


# Kills --------------------------------------------------------------------------------------------

KILLED = """
import os, sys
from pathlib import Path
from cardiac_attrivae.runtime import files
from cardiac_attrivae.runtime.folders import locked

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
    if what == "write" or (folder / "place").exists():  # nothing is there between two renames
        assert held() in ({"old"}, {"new"}), (last, held())
    with locked(folder):
        pass
    content = held()
    assert content in ({"old"}, {"new"}), (last, content)
    seen += content
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
    assert done.returncode == 0, done.stderr
    kills, old = map(int, done.stdout.split())
    assert kills > 15
    assert 10 < old < kills


def test_only_leftovers_are_removed(tmp_path):
    token = "0123456789abcdef"
    left = (
        f".part-{token}-a.csv", f"figures/.part-{token}-b.png", f"parts/.part-{token}-c/key",
        f"sub/.old-{token}-there/key", ".part-1-from.an.older.version",
    )  # fmt: skip
    back = f".old-{token}-gone/key"
    kept = ("a.csv", ".part-x", "figures/b.png", "sub/there/key", f"part-{token}-a")
    for name in (*left, back, *kept):
        write(tmp_path / name, "x")
    remove_leftovers(tmp_path)
    found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert found == {*kept, "gone/key"}
    assert not list((tmp_path / "parts").iterdir())


WRITER = """
import sys, time
from pathlib import Path
from cardiac_attrivae.runtime import files
with getattr(files, sys.argv[2])(Path(sys.argv[1], "a")) as temporary:
    print(temporary, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["atomic_file", "atomic_folder"])
def test_what_a_living_process_writes_stays_whatever_its_number_means_here(tmp_path, kind):
    """As it is in another container on the same disk, whose process numbers are not ours."""
    command = [sys.executable, "-c", WRITER, tmp_path, kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        temporary = Path(writer.stdout.readline().strip())
        assert str(writer.pid) not in temporary.name
        remove_leftovers(tmp_path)
        assert temporary.exists()
        writer.kill()
    remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_next_folder_of_that_name_removes_what_a_killed_one_left_but_not_a_living_one(tmp_path):
    command = [sys.executable, "-c", WRITER, tmp_path, "atomic_folder"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        temporary = Path(writer.stdout.readline().strip())
        for name in ("b", "a"):
            with atomic_folder(tmp_path / name):
                pass
            assert temporary.exists()
        writer.kill()
    for name, remains in (("b", True), ("a", False)):
        with atomic_folder(tmp_path / name):
            pass
        assert temporary.exists() == remains


def test_two_writers_with_one_process_number_do_not_meet(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with atomic_file(tmp_path / "a") as one:
        one.write_text("one")
        with atomic_file(tmp_path / "a") as other:
            remove_leftovers(tmp_path)
            other.write_text("other")
        assert (tmp_path / "a").read_text() == "other"
    assert (tmp_path / "a").read_text() == "one"
    assert names(tmp_path) == {"a"}


def test_without_locks_only_what_is_a_day_old_counts_as_left(tmp_path, monkeypatch):
    def unknown(*_, **__):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files, "lock_descriptor", unknown)
    for name in ("0123456789abcdef-new", "fedcba9876543210-old"):
        write(tmp_path / f".part-{name}", "x")
    os.utime(tmp_path / ".part-fedcba9876543210-old", (1, 1))
    remove_leftovers(tmp_path)
    assert names(tmp_path) == {".part-0123456789abcdef-new"}


# Links --------------------------------------------------------------------------------------------


def test_links_under_temporary_names_are_neither_written_through_nor_followed(tmp_path):
    """A run folder that somebody sends may hold any link."""
    write(tmp_path / "mine" / "thesis.tex", "years of work")
    run = tmp_path / "run"
    run.mkdir()
    for number in (os.getpid(), 1, 999_999_999):
        for name in ("summary.json", "last.pt"):
            (run / f".part-{number}-{name}").symlink_to(tmp_path / "mine" / "thesis.tex")
    (run / ".part-0123456789abcdef-a").symlink_to(tmp_path / "mine")
    (run / "history.csv").symlink_to(tmp_path / "mine" / "thesis.tex")
    remove_leftovers(run)
    for name in ("summary.json", "last.pt", "history.csv"):
        write(run / name, "own")
        assert not (run / name).is_symlink()
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"
    assert names(tmp_path / "mine") == {"thesis.tex"}


def test_a_temporary_name_that_exists_is_not_taken(tmp_path, monkeypatch):
    (tmp_path / "target").write_text("mine")
    monkeypatch.setattr("secrets.token_hex", lambda _: "0123456789abcdef")
    (tmp_path / ".part-0123456789abcdef-a").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match=rf"cannot write {tmp_path}/a: File exists"):
        write(tmp_path / "a", "x")
    assert (tmp_path / "target").read_text() == "mine"


def test_a_folder_goes_to_where_the_users_own_link_points(tmp_path):
    write(tmp_path / "disk" / "store" / "a", "old")
    (tmp_path / "store").symlink_to(tmp_path / "disk" / "store")
    with atomic_folder(tmp_path / "store") as folder:
        write(folder / "b", "new")
    assert (tmp_path / "store").is_symlink()
    assert names(tmp_path / "disk" / "store") == {"b"}
    assert names(tmp_path / "disk") == {"store"}


@pytest.mark.parametrize("output", [".", "..", "", "../here"])
def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch, output):
    write(tmp_path / "here" / "a", "mine")
    monkeypatch.chdir(tmp_path / "here")
    wanted = "is the current folder or holds it, .*name a new folder"
    with pytest.raises(DataError, match=wanted), atomic_folder(output):
        pass
    assert names(tmp_path) == {"here"}
    assert names(tmp_path / "here") == {"a"}


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
from cardiac_attrivae.training.checkpoints import save as save_state
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
from cardiac_attrivae.report.animation import traversal_gif
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


@pytest.mark.slow
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
from cardiac_attrivae.cli.main import main
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


# Nobody writes past it ----------------------------------------------------------------------------

WRITE = {
    "write_text", "write_bytes", "tofile", "touch", "savefig", "save", "save_file", "savez",
    "savez_compressed", "savetxt", "imsave", "to_csv", "to_json", "to_html", "to_pickle",
    "to_parquet", "to_excel", "to_filename", "dump", "copyfile", "copytree", "copy2", "move",
    "link", "symlink", "symlink_to", "hardlink_to", "mkstemp", "mkdtemp", "NamedTemporaryFile",
    "TemporaryFile", "TemporaryDirectory", "SummaryWriter", "memmap",
}  # fmt: skip
TEMPORARY_OR_IN_MEMORY = {"beside", "part", "temporary", "stream", "packed", "archive"}
"""What may be written to: the path that `atomic_file` gives, and streams that end there."""
PAST = {
    "open(log, 'ab', buffering=0)": "a log grows while it is written",
    "SummaryWriter(folder / 'tensorboard', purge_step=None)":
        "TensorBoard's own files grow while they are written; nothing here reads them",
    "TemporaryDirectory()": "a picture on its way into a notebook",
    "open(file, 'wb')": "an array in the temporary folder that becomes a store",
    "open(os.devnull, 'w')": "where the warnings of a library go",
    "open(os.devnull, 'w', encoding='utf-8')": "where text for a closed stream goes",
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
        if places & TEMPORARY_OR_IN_MEMORY:
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
    modules = [file for file in PACKAGE.rglob("*.py") if file.stem != "files"]
    found = [call for file in modules for call in writes_past(file.read_text(encoding="utf-8"))]
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


def refused(times, rename=os.replace):
    """A rename that Windows refuses so many times, as while somebody reads the file."""
    left = [times]

    def attempt(source, target):
        left[0] -= 1
        if left[0] >= 0:
            raise PermissionError(errno.EACCES, "Access is denied", str(target))
        rename(source, target)

    return attempt


@pytest.mark.parametrize(
    ("windows", "times", "written"), [(True, 3, True), (True, 9, False), (False, 1, False)]
)
def test_windows_is_asked_again_while_somebody_reads_the_file(
    tmp_path, monkeypatch, windows, times, written
):
    file, waited = tmp_path / "a.txt", []
    files.write(file, "old")
    monkeypatch.setattr(files, "WINDOWS", windows)
    monkeypatch.setattr(files.os, "replace", refused(times))
    monkeypatch.setattr(files.time, "sleep", waited.append)
    if written:
        files.write(file, "new")
        assert waited == [0.05, 0.1, 0.2]
    else:
        with pytest.raises(PermissionError, match=re.escape(str(file))) as refusal:
            files.write(file, "new")
        assert ("close it there" in str(refusal.value)) == windows
    assert file.read_text() == ("new" if written else "old")
