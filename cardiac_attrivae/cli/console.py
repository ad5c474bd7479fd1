"""What a user sees: messages, progress bars, tables that fit the terminal, exit codes."""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import itertools
import os
import shutil
import sys
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import click

from ..runtime.messages import printable, shell_word
from ..runtime.progress import Progress
from ..runtime.progress import progress as shown
from . import INTERRUPTED

TRACEBACK = "CARDIAC_ATTRIVAE_TRACEBACK"
"""Environment variable that shows where an error was raised, for those who look for a bug."""

READER_GONE = 141
"""Exit code where a pipe was closed: 128 and the number of SIGPIPE, as shells have it."""

CAVEAT = (
    "R2, Interpretability and SCC tell how well areas are read from a slice that is already cut "
    "out by the expert mask whose areas they are; they do not tell how well areas are found."
)

NO_MEMORY = (
    "there is not enough memory, or this process may not use more of it (ulimit -v, the limit of a "
    "cluster's job). Ask for more, close other programs, or, while training, take smaller batches: "
    "--set data.batch_size=16; --device cpu does without the GPU's memory"
)


class Mistake(click.ClickException):
    """What a user can correct: one message on standard error, exit code 2."""

    exit_code = 2

    def format_message(self) -> str:
        return printable(self.message)


class Interrupted(click.ClickException):
    """Ctrl-C: one line on standard error."""

    exit_code = INTERRUPTED

    def show(self, file: Any = None) -> None:
        click.echo(f"\n{self.message}" if sys.stderr.isatty() else self.message, err=True)  # ^C


def explained(command: Callable[..., None]) -> Callable[..., None]:
    """Shows warnings, and errors that explain themselves, as messages without a traceback."""

    @functools.wraps(command)
    def wrapper(**options: Any) -> None:
        with warnings.catch_warnings():
            warnings.showwarning = _once()
            try:
                command(**options)
            except BrokenPipeError:  # `Commands` ends quietly
                raise
            except (ValueError, OSError, FloatingPointError, MemoryError, RuntimeError) as error:
                if _wants_traceback() or not _explains_itself(error):
                    raise
                raise Mistake(_sentence(error)) from None

    return wrapper


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Imports large libraries, of which Python's search for circular garbage keeps off: MONAI and
    what it needs make a million objects that stay, and looking through them, at the exit too, takes
    2 s."""
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # what is frozen stays, garbage too
            gc.freeze()
        gc.enable()


class Commands(click.Group):
    """A group of commands, of which none minds a pipe that was closed: click would end with 1."""

    def main(self, *args: Any, **options: Any) -> Any:
        with _a_reader_may_leave():  # while it prints an error
            return super().main(*args, **options)

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        with _a_reader_may_leave():  # its own help
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with _a_reader_may_leave():  # the help of a command
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:
                raise Interrupted("Interrupted.") from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and not ctx.resilient_parsing:  # no completion
            _refuse_second_place(command, ctx, rest)
        return name, command, rest


def _refuse_second_place(command: click.Command, ctx: click.Context, words: list[str]) -> None:
    """Refuses a file or folder to read where another one was given already: click takes the last,
    and a store that somebody meant to train on, too, would be left out without a word."""
    with contextlib.suppress(click.UsageError):  # the command itself says what else is wrong
        _, _, given = command.make_parser(ctx).parse_args(args=[*words])
        for option, times in Counter(given).items():
            read = isinstance(option.type, click.Path) and option.name != "output"
            if read and times > 1 and isinstance(option, click.Option) and not option.multiple:
                text = f"{option.opts[0]} is given {times} times; expected one: {option.help}"
                raise Mistake(text)


@contextlib.contextmanager
def _a_reader_may_leave() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        _leave_quietly()


def _leave_quietly() -> NoReturn:
    """Ends a command whose reader has seen enough, as ``head``, with the exit code of that signal:
    1 is an answer of verify. What is still to be printed goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # a notebook's have no number
            os.dup2(nowhere, stream.fileno())
    raise SystemExit(READER_GONE)


def _once() -> Callable[..., None]:
    """Shows each warning once: Python forgets which it showed wherever a filter is changed."""
    told = functools.cache(warn)
    return lambda message, *_, **__: told(str(message))


def _lacks_memory(error: Exception) -> bool:
    """Tells whether memory ran out; torch says so of a processor by a plain RuntimeError."""
    kinds = ("OutOfMemoryError", "MemoryError", "_ArrayMemoryError")  # torch's and numpy's
    return type(error).__name__ in kinds or "allocate memory" in str(error)


def _wants_traceback() -> bool:
    return os.environ.get(TRACEBACK, "0") not in ("", "0")


def _explains_itself(error: Exception) -> bool:
    return not isinstance(error, RuntimeError) or _lacks_memory(error)


def _sentence(error: Exception) -> str:
    """Returns the message of an error, without the number that the system gives it."""
    if _lacks_memory(error):
        return NO_MEMORY
    if isinstance(error, UnicodeEncodeError):
        return (
            f"{error.object[:200]!r} holds bytes that are not UTF-8, as names from old systems do; "
            "rename the file or folder"
        )
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(str(part) for part in (error.filename, error.strerror) if part is not None)
    return str(error)


def prepare_streams() -> None:
    """Lets output go nowhere where a standard stream was closed, as by ``>&-`` or a daemon.

    Files that are opened later could otherwise take the number of the stream, and its messages.
    Letters that a stream cannot write, as a pipe on Windows, are spelled out.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):  # a notebook has its own
            stream.reconfigure(errors="backslashreplace")


def use_utf8() -> None:
    """Starts Python again in its UTF-8 mode, where it takes names of files for something else.

    That is so in locales such as ISO-8859-1, and in C where PYTHONUTF8=0 forbids what Python does
    there by itself. An umlaut would be a character that cannot be printed.
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"  # of the processes that this one starts
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def say(message: str) -> None:
    """Prints a result on standard output."""
    click.echo(printable(message))


def tell(message: str) -> None:
    """Prints what happens on standard error, so that results can be piped."""
    click.echo(printable(message), err=True)


def warn(message: Warning | str, *_: object, **__: object) -> None:
    """Prints a warning, as `warnings.showwarning` does."""
    tell(f"Warning: {message}")


def is_terminal() -> bool:
    """Returns whether somebody watches standard error."""
    return sys.stderr.isatty()


def progress(label: str) -> Progress:
    """Wraps an iterable: a bar on a terminal, a line for every tenth of it otherwise."""
    return shown(label, tell)


def columns() -> int:
    """Returns the width of the terminal."""
    return shutil.get_terminal_size().columns


def row(head: str, text: str) -> str:
    """Returns a line with a head; on a terminal, what does not fit continues below the text."""
    width = columns() if sys.stdout.isatty() else sys.maxsize
    return textwrap.fill(
        text, width, initial_indent=head, subsequent_indent=" " * len(head),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def fitted(text: str, width: int) -> str:
    r"""Returns Markdown with lines of at most a width; a table that is wider becomes a list.

    Example:
        >>> print(fitted("| model | score |\n| --- | --- |\n| a long name | .98 |", width=20))
        a long name
          score  .98
    """
    lines: list[str] = []
    for is_table, group in itertools.groupby(text.splitlines(), lambda line: line.startswith("|")):
        block = list(group)
        if not is_table:
            lines += [textwrap.fill(line, width, subsequent_indent="  ") for line in block]
        elif max(map(len, block)) <= width:
            lines += block
        else:
            lines += _listed(block)
    return "\n".join(lines)


def _listed(table: list[str]) -> list[str]:
    """Returns each row of a Markdown table as its first cell and a line per other cell."""
    (_, *names), _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table)
    longest = max(map(len, names))
    lines: list[str] = []
    for first, *cells in rows:
        pairs = zip(names, cells, strict=True)
        lines += [first, *(f"  {name:<{longest}}  {cell}" for name, cell in pairs if cell)]
    return lines


def show_scores(folder: Path) -> None:
    """Prints the table of an evaluation, what to keep in mind, and where its files are."""
    text = f"{(folder / 'table.md').read_text('utf-8')}\n{CAVEAT}\n"
    say(fitted(text, columns()) if sys.stdout.isatty() else text)
    say(f"Scores: {folder / 'metrics.csv'}, table: {folder / 'table.md'}")


def suggest(*words: str | Path) -> None:
    """Prints the command that usually comes next."""
    say(f"Next: {' '.join(map(shell_word, ('cardiac-attrivae', *words)))}")
