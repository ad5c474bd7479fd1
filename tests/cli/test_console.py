"""What the console prints: nothing that a terminal obeys, nothing wider than it is."""

import contextlib
import gc
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from cardiac_attrivae.__main__ import main as start
from cardiac_attrivae.cli import console
from cardiac_attrivae.cli.main import main
from cardiac_attrivae.data.phantom import write_phantoms

ROOT = Path(__file__).parents[2]
PROGRAM = f"{sys.executable} -u -m cardiac_attrivae"

TABLE = """# Scores

A line that is longer than the terminal is wide, so that it has to be wrapped.

| model   | LVEDA          | MEDA           |
| ------- | -------------- | -------------- |
| *home*  |                |                |
| attri   | .99 [.98, 1.0] | .95 [.90, .99] |
"""


@pytest.mark.parametrize("raw", ["\x1b[2J", "\x9b31m", "\x07", "\r", "\x7f", "\u202e", "\udce9"])
def test_control_characters_and_undecodable_bytes_are_spelled_out(raw):
    shown = console.printable(f"patient{raw}001")
    assert shown.isprintable()
    assert shown.startswith("patient\\")
    shown.encode()


def test_ordinary_text_is_printed_as_it_is():
    for text in ("Müller, 10 cm² → 日本", "two\nlines\tand a tab"):
        assert console.printable(text) == text


def test_a_warning_is_told_once(capsys):
    @console.explained
    def command():
        for _ in range(2):
            with warnings.catch_warnings():  # starts Python's own list of told warnings anew
                warnings.simplefilter("ignore")
            warnings.warn("read as Windows-1252", stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        command()
    assert capsys.readouterr().err == "Warning: read as Windows-1252\n"


def test_every_message_of_a_command_is_spelled_out():
    @click.command()
    @console.explained
    def command():
        warnings.warn("bad \x1b[1m", stacklevel=1)
        console.say("name \x1b]0;title\x07")
        console.tell("note \x1b[2J")
        raise ValueError("wrong \x1b[31m \udce9")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = CliRunner().invoke(command)
    assert result.exit_code == 2
    assert "\x1b" not in result.output
    for text in (r"Warning: bad \x1b[1m", r"name \x1b]0;title\x07", r"wrong \x1b[31m \udce9"):
        assert text in result.output


@pytest.mark.parametrize("width", [30, 46, 80])
def test_a_table_wider_than_the_terminal_becomes_a_list_and_keeps_every_value(width):
    shown = console.fitted(TABLE, width)
    assert max(map(len, shown.splitlines())) <= width
    assert ("| attri" in shown) == (width >= 46)
    for text in ("*home*", "attri", ".99 [.98, 1.0]", "LVEDA", "MEDA"):
        assert text in shown


def typed(words, folder, before="true", **environment):
    """What a shell makes of a command, in a folder."""
    return subprocess.run(
        ["bash", "-c", f"{before}; {PROGRAM} {words}; exit ${{PIPESTATUS[0]}}"],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True, text=True, errors="replace",
    )  # fmt: skip


def test_a_current_folder_that_was_deleted_is_named_in_a_sentence(tmp_path):
    words = "preprocess --dataset acdc --source / --output store"
    told = typed(words, tmp_path, before="mkdir gone && cd gone && rmdir ../gone")
    assert told.returncode == 2
    assert "the current folder was deleted" in told.stderr


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["nonsense", "module://matplotlib_inline.backend_inline"])
def test_no_backend_of_matplotlib_is_needed(backend, tmp_path):
    write_phantoms("acdc", tmp_path / "hearts", cases=2, cine=False)
    words = "preprocess --dataset acdc --source hearts --output store"
    told = typed(words, tmp_path, MPLBACKEND=backend)
    assert told.returncode == 0, told.stderr
    assert (tmp_path / "store" / "contact_sheet.png").is_file()


@pytest.mark.parametrize(("closed", "code"), [(">&-", 0), ("2>&-", 0), ("| true", 141)])
def test_output_that_nobody_reads_is_no_error(closed, code, tmp_path):
    write_phantoms("acdc", tmp_path / "hearts", cases=2, cine=False)
    told = typed(f"check --dataset acdc --source hearts {closed}", tmp_path)
    assert told.returncode == code, told.stderr
    assert "Error" not in told.stderr
    assert "Traceback" not in told.stderr


def test_an_interrupted_command_ends_as_shells_expect_in_one_line(monkeypatch):
    def interrupted(**options):
        raise KeyboardInterrupt

    monkeypatch.setattr(main.commands["verify"], "callback", interrupted)
    told = CliRunner().invoke(main, ["verify", "."])
    assert (told.exit_code, told.stdout, told.stderr) == (130, "", "Interrupted.\n")


def test_a_command_that_is_interrupted_while_it_is_imported_ends_in_one_line(monkeypatch, capsys):
    def interrupted(name, *_):
        if name == "cardiac_attrivae.cli.main":
            raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "cardiac_attrivae.cli.main")
    monkeypatch.setattr(sys, "meta_path", [SimpleNamespace(find_spec=interrupted)])
    with pytest.raises(SystemExit) as ended:
        start()
    assert (ended.value.code, capsys.readouterr().err) == (130, "Interrupted.\n")


@pytest.mark.parametrize("words", ["--help", "--version", "verify --help", "verify --run nowhere"])
def test_help_and_errors_that_nobody_reads_end_as_any_output(words, tmp_path):
    """Click would end with 1, which is an answer of verify."""
    assert typed(f"{words} 2>&1 | true", tmp_path).returncode == 141


@pytest.mark.parametrize(
    "name",
    ["a b", "it's", "-x", "Universit\udce4t", "a\nb", "Müll er", "\\udce4", "\udce41", "\x1b'[2J"],
)
def test_a_suggested_command_is_what_a_shell_makes_of_it(name, tmp_path, capsys):
    console.suggest("check", "--source", name)
    line = capsys.readouterr().out.removeprefix("Next: cardiac-attrivae").strip()
    assert line.isprintable()
    words = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True).stdout
    assert words == b"check\0--source\0" + os.fsencode(name) + b"\0"


def test_names_with_umlauts_are_read_where_python_is_told_not_to_use_utf8(tmp_path):
    write_phantoms("acdc", tmp_path / "Universität", cases=2, cine=False)
    words = "check --dataset acdc --source 'Universität'"
    told = typed(words, tmp_path, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", LC_ALL="C")
    assert told.returncode == 0, told.stdout
    assert "2 usable cases, no problems" in told.stdout
    assert "--source 'Universität'" in told.stdout


def test_letters_that_a_stream_cannot_write_are_spelled_out(tmp_path):
    write_phantoms("acdc", tmp_path / "Łódź", cases=2, cine=False)
    words = "check --dataset acdc --source Łódź"
    told = typed(words, tmp_path, PYTHONIOENCODING="cp1252")  # as Windows writes into a pipe
    assert told.returncode == 0, told.stderr
    assert "2 usable cases, no problems" in told.stdout


def test_errors_of_the_system_and_of_names_become_sentences():
    assert console._sentence(FileNotFoundError(2, "No such file", "a.csv")) == "a.csv: No such file"
    with pytest.raises(UnicodeEncodeError) as error:
        "caf\udce9/run".encode()
    assert "'caf\\udce9/run' holds bytes that are not UTF-8" in console._sentence(error.value)


class OutOfMemoryError(RuntimeError):
    """As torch's: its name is all that can be known without importing torch."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; ...)"),
        RuntimeError("[alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_too_little_memory_is_a_sentence_that_says_what_to_do(error):
    @click.command()
    @console.explained
    def command():
        raise error

    result = CliRunner().invoke(command)
    assert result.exit_code == 2
    assert result.output.startswith("Error: there is not enough memory")


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False), ("", False)])
def test_a_traceback_is_shown_where_it_is_asked_for(monkeypatch, value, shown):
    @click.command()
    @console.explained
    def command():
        raise ValueError("a wrong value")

    monkeypatch.setenv(console.TRACEBACK, value)
    raised = CliRunner().invoke(command).exception
    assert isinstance(raised, ValueError if shown else SystemExit)


def test_an_error_of_the_program_itself_keeps_its_traceback():
    @click.command()
    @console.explained
    def command():
        raise RuntimeError("a bug")

    assert isinstance(CliRunner().invoke(command).exception, RuntimeError)


def test_imports_are_quick_and_garbage_is_looked_for_again_after_them():
    frozen = []
    for error in (None, ImportError):
        with contextlib.suppress(ImportError), console.quick_imports():
            assert not gc.isenabled()
            if error:
                raise error
        assert gc.isenabled()
        frozen.append(gc.get_freeze_count())
    assert frozen[0] > 0
    assert frozen[1] <= frozen[0]  # garbage of a second command in this process is found
