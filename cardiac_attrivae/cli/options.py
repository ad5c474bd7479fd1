"""Options that several commands share."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..runtime.outputs import A_STORE, require_free
from ..schema import LARGEST_SEED, SPLITS, DataError
from .console import Mistake

if TYPE_CHECKING:
    from ..data.masks import Masks

T = TypeVar("T")

LABELS = "LV=1,MYO=2,RV=3"
"""Label numbers in masks that are given beside the scans."""

FOLDER = click.Path(file_okay=False, path_type=Path)
"""A folder whose content the command itself checks."""

SOURCE = click.Path(exists=True, file_okay=False, path_type=Path)
"""A folder that is there."""


class Place(click.Path):
    """A file or folder to write. TensorBoard and web pages need a name that is UTF-8."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        try:
            str(path.absolute()).encode()
        except UnicodeEncodeError:
            name = os.fsencode(path).decode("utf-8", "backslashreplace")
            self.fail(
                f"{name} is not UTF-8, or a folder above it; choose another place", param, ctx
            )
        except FileNotFoundError:  # `absolute` asks where we are
            self.fail("the current folder was deleted; change to one that is there", param, ctx)
        return path


PLACE = Place(path_type=Path)
"""A file or folder that may be there or not."""


class UnlessPrinting(click.Option):
    """A required option that may be left out beside --print-config."""

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        if opts.get("print_config"):
            return None, args
        return super().handle_parse_result(ctx, opts, args)


def free(context: click.Context, option: click.Parameter, output: Path | None) -> Path | None:
    """Refuses a folder of somebody else before anything large is imported; what a command may
    replace of its own it checks by itself."""
    command = str(context.info_name)
    if output is not None:
        try:
            require_free(output, command)
        except DataError as error:
            raise Mistake(str(error)) from None
    return output


def _shipped(folder: str) -> Callable[..., list]:
    """Completes the names of shipped YAML files; where none fits, names of the user's files."""

    def complete(context: click.Context, option: click.Parameter, incomplete: str) -> list:
        from click.shell_completion import CompletionItem

        from ..runtime.yaml_files import shipped

        names = [name for name in shipped(folder) if name.startswith(incomplete)]
        return names or [CompletionItem(incomplete, type="file")]

    return complete


dataset = click.option(
    "--dataset", required=True, metavar="acdc|mnms|FILE.yaml", help="Which data set this is.",
    shell_complete=_shipped("data_manifests"),
)  # fmt: skip
source = click.option("--source", required=True, type=SOURCE, help="Folder that holds it.")
pipeline = click.option(
    "--pipeline", required=True, metavar="NAME|FILE.yaml", help="attri_vae_fast, for example.",
    shell_complete=_shipped("pipelines"),
)  # fmt: skip
changes = click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change one value."
)
scans = click.option(
    "--source", "sources", required=True, multiple=True, type=Place(exists=True, path_type=Path),
    help="Scan, or folder of scans: NIfTI, .nrrd, .mha, DICOM. May be given several times.",
)  # fmt: skip
overwrite = click.option("--overwrite", is_flag=True, help="Replace a store that is there already.")
masks = click.option(
    "--masks", metavar="DIR", type=FOLDER,
    help="Take the masks from here, each named as its scan (segment, nnU-Net).",
)  # fmt: skip
only_missing = click.option(
    "--only-missing", is_flag=True, help="Of --masks, for cases without a mask alone."
)
labels = click.option(
    "--mask-labels", "labels", default=LABELS, show_default=True,
    metavar="LV=N,MYO=N,RV=N", help="Label numbers in those masks.",
)  # fmt: skip
data = click.option(
    "--data", cls=UnlessPrinting, required=True, type=FOLDER,
    help="Store that preprocess wrote; join makes one of several.",
)  # fmt: skip
store = click.option(
    "--data", "store", type=FOLDER, help="Store the run was trained on; needed if it was moved."
)
run = click.option(
    "--model", "run", required=True, type=FOLDER, metavar="RUN|acdc",
    help="Run that train wrote, or a shipped model: acdc, acdc/attri_vae_fast.",
)  # fmt: skip
plain = click.option(
    "--plain/--refined", default=None,
    help="Leave the refiner of a model out, or draw with it; default: with it, but for a shipped "
    "model.",
)  # fmt: skip
case = click.option("--case", help="Patient to start from; default: the mean of all.")
condition = click.option(
    "--condition", metavar="COLUMN=CATEGORY",
    help="What a conditional model is told, as in pathology=DCM; default: that of --case, else "
    "nothing.",
)  # fmt: skip
output = click.option("--output", required=True, type=PLACE, callback=free, help="Folder to write.")
seed = click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0, LARGEST_SEED),
    help="Random seed.",
)  # fmt: skip
workers = click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes."
)
device = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda[:N]|mps",
    help="Where to run.",
)  # fmt: skip
rounds = click.option(
    "--rounds", default=1000, show_default=True, type=click.IntRange(1),
    help="Draws behind every interval and null distribution.",
)  # fmt: skip


def segmenters(name: str, help: str) -> Callable[..., Any]:
    """Option for what outlines hearts; given several times, they vote."""
    return click.option(
        name, "segmenters", default=("acdc",), show_default=True, multiple=True,
        metavar="acdc|RUN|onnx:FILE", help=f"{help} Given several times, they vote.",
    )  # fmt: skip


def masks_elsewhere(
    folder: Path | None, only_missing: bool, labels: str, source: str = ""
) -> Masks | None:
    """Returns what --masks and the options beside it say; None without --masks."""
    if folder is None:
        if only_missing or source or labels != LABELS:
            raise click.UsageError(
                "--only-missing, --mask-labels and --mask-source need --masks DIR"
            )
        return None
    from ..data.masks import Masks, read_labels

    return Masks(folder, source, read_labels(labels), only_missing)


def named_once(option: str, pairs: Sequence[tuple[str, T]]) -> dict[str, T]:
    """Returns the values of an option that is given once for each name; of two, one would be lost.

    Example:
        >>> named_once("--set", [("LVEDA", 20), ("RVEDA", 15)])
        {'LVEDA': 20, 'RVEDA': 15}
    """
    for name, times in Counter(name for name, _ in pairs).items():
        if times > 1:
            raise ValueError(f"{option} {name} is given {times} times; expected one value for it")
    return dict(pairs)


def store_and_split(given: Path, otherwise: str) -> tuple[Path, str]:
    """Returns folder and split of STORE:SPLIT; a folder of that very name comes first.

    Example:
        >>> store_and_split(Path("stores/acdc:val"), "test")[1]
        'val'
    """
    folder, _, split = str(given).rpartition(":")
    if not folder or f"{folder}:" == given.drive or given.exists():
        return given, otherwise
    if split in SPLITS:
        return type(given)(folder), split
    if A_STORE.is_at(Path(folder)):
        raise ValueError(
            f"{split!r} is no split of the store in {folder}; expected "
            f"{', '.join(f'{folder}:{name}' for name in SPLITS[:-1])} or {folder}:{SPLITS[-1]}"
        )
    return given, otherwise
