"""Calls the commands in a process that refuses what Windows refuses, as far as Linux can.

Started by tests/test_portability.py: python windows.py PHANTOMS FOLDER.
"""

import os
import re
import shutil
import signal
import sys
import warnings
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import commands

MODULES = ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty")
"""What Windows lacks in the standard library."""
CALLS = {
    os: ("O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "fchmod", "fork", "forkpty", "getegid",
         "geteuid", "getgid", "getloadavg", "getpgid", "getuid", "killpg", "mkfifo", "posix_spawn",
         "sched_getaffinity", "setsid", "sync", "uname"),
    signal: ("SIGALRM", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "alarm", "setitimer"),
}  # fmt: skip
LIBRARIES = (
    "click", "filelock", "ignite", "jinja2", "joblib", "matplotlib.pyplot", "monai.bundle",
    "monai.engines", "monai.handlers", "nibabel", "onnxscript", "optuna", "pandas",
    "safetensors.torch", "scipy.stats", "SimpleITK", "sklearn.linear_model",
    "torch.utils.tensorboard", "tqdm",
)  # fmt: skip
DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{port}{n}" for port in ("com", "lpt") for n in range(10)),
}
TAKEN = re.compile(r'[^<>:"/\\|?*\x00-\x1f]*[^<>:"/\\|?*\x00-\x1f .]')
"""Names that Windows takes for a file."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def pretend() -> None:
    """Hides what only Unix has, and watches every file from now on.

    The libraries come first: what they need on this system is their own affair.
    """
    for name in LIBRARIES:
        import_module(name)
    import psutil

    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for owner, names in CALLS.items():
        for name in names:
            if hasattr(owner, name):
                delattr(owner, name)
    memory = SimpleNamespace(rss=2**30, peak_wset=2**30)
    psutil.Process.memory_info = lambda process: memory  # type: ignore[method-assign]
    os.linesep = "\r\n"
    shutil._use_fd_functions = False  # type: ignore[attr-defined]  # names of files, no numbers
    from cardiac_attrivae.runtime import environment, messages

    environment.WINDOWS = messages.WINDOWS = True
    sys.addaudithook(_watch)


def _watch(event: str, arguments: tuple) -> None:
    if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        path, mode, flags = arguments
        if isinstance(mode, str) and set(mode) & set("wax+") or (flags or 0) & WRITING:
            _check_name(path)
        elif mode is None and os.path.isdir(path):
            raise PermissionError(13, "a folder cannot be opened on Windows", path)
    elif event == "os.mkdir":
        _check_name(arguments[0])
    elif event == "os.rename":
        source, target = arguments[:2]
        _check_closed(source)
        _check_closed(target)
        _check_name(target)
    elif event in ("os.remove", "os.rmdir"):
        _check_closed(arguments[0])


def _check_name(path: str) -> None:
    """Raises for a name that Windows does not take, or that another file has in other letters."""
    path = os.path.abspath(os.fsdecode(path))
    if path.startswith("/dev/"):
        return
    name, folder = os.path.basename(path), os.path.dirname(path)
    if name.split(".")[0].strip().casefold() in DEVICES or not TAKEN.fullmatch(name):
        raise OSError(22, "a name that Windows does not take", path)
    for other in os.listdir(folder) if os.path.isdir(folder) else ():
        if other.casefold() == name.casefold() and other != name:
            raise OSError(17, f"the same file as {other} where letters have no case", path)


def _check_closed(path: str) -> None:
    """Raises for a file that is open or mapped, or a folder that holds one."""
    path = os.path.realpath(os.fsdecode(path))
    opened = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    for other in (*opened, *(line.split(maxsplit=5)[-1] for line in mapped)):
        if other == path or other.startswith(f"{path}/"):
            raise PermissionError(13, "being used by another process", path)


if __name__ == "__main__":
    pretend()
    warnings.filterwarnings("error", category=EncodingWarning, module="cardiac_attrivae")
    commands.call_all(Path(sys.argv[1]), Path(sys.argv[2]), commands.CORE + commands.MORE)
    for table in Path().rglob("*.csv"):
        assert b"\r" not in table.read_bytes(), table
