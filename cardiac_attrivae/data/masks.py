"""Masks that lie elsewhere than a manifest says, found by the names of their scans."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from reprlib import repr as short
from typing import Any

from ..runtime.file_names import shortened
from ..runtime.files import read_json
from ..runtime.outputs import command_of
from ..schema import MANUAL, STRUCTURES, CaseRecord, DataError, Structure
from .links import check_content

PREDICTED = "predicted"
"""``mask_source`` of masks whose segmenter is not known, or is not told."""
SOURCE = r"\w[\w.:+-]{0,63}"
"""What ``mask_source`` may be: it stands in tables and on pages."""
ENDS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
"""Endings of images and masks."""
CHANNEL = "_0000"
"""How nnU-Net ends the name of a scan, but not that of its mask."""
CANONICAL: Mapping[int, Structure] = {int(structure): structure for structure in Structure}
LARGEST = 2**16 - 1
"""Number of a label that a mask can hold."""
NUMBERS = (
    f"a number of its own, not 0, for each structure, up to {LARGEST}, such as LV=3,MYO=2,RV=1"
)
NOTE = "segmentation.json"
"""File in which ``segment`` says who made the masks of a folder, and which frames are ED and ES."""


def stem(path: Path) -> str:
    """Returns the name of an image file or DICOM folder without its ending.

    Example:
        >>> [stem(Path(p)) for p in ("a/p1_gt.nii.gz", "p2_0000.nrrd", "cines/p3.1")]
        ['p1_gt', 'p2_0000', 'p3.1']
    """
    name = path.name if path.name not in ("", "..") else os.path.basename(os.path.abspath(path))
    name = name if name.isprintable() else ascii(name)[1:-1]
    end = next((end for end in ENDS if name.lower().endswith(end)), "")
    return name[: len(name) - len(end)]


def scan_name(path: Path) -> str:
    """Returns the name of a scan: its file or DICOM folder without ending and nnU-Net's channel,
    `shortened` where a mask could not be called so.

    Example:
        >>> [scan_name(Path(p)) for p in ("a/p1_sa.nii.gz", "p2_0000.nrrd", "cines/p3")]
        ['p1_sa', 'p2', 'p3']
    """
    return shortened(stem(path).removesuffix(CHANNEL))


def read_labels(text: str) -> dict[int, Structure]:
    """Reads label numbers of masks as a user types them.

    Args:
        text: Structures with their numbers, ``LV=3,MYO=2,RV=1``; 0 is the background.

    Raises:
        ValueError: If a structure is unknown or lacks a number, or a number occurs twice.

    Example:
        >>> read_labels("LV=3,MYO=2,RV=1")[3].name
        'LV'
    """
    parts = [part.strip().partition("=") for part in text.split(",")]
    if any(not number.isdecimal() for _, _, number in parts):
        raise ValueError(f"label numbers are {text!r}; expected {NUMBERS}")
    return label_numbers({name: int(number) for name, _, number in parts})


def label_numbers(numbers: Mapping[str, int]) -> dict[int, Structure]:
    """Turns structure -> number into number -> structure, with 0 for the background.

    Raises:
        ValueError: If a structure is unknown or lacks a number, or a number occurs twice.

    Example:
        >>> label_numbers({"LV": 3, "MYO": 2, "RV": 1})[1].name
        'RV'
    """
    given: Any = numbers
    if not isinstance(given, Mapping):
        expected = "{'LV': 1, 'MYO': 2, 'RV': 3}"
        raise ValueError(f"label numbers are {short(given)}; expected such as {expected}")
    found = {0: Structure.BACKGROUND} | {
        number: Structure[name] for name, number in numbers.items() if name in STRUCTURES
    }
    known = set(numbers) == set(STRUCTURES) and max(numbers.values()) <= LARGEST
    if len(found) != len(numbers) + 1 or not known:
        raise ValueError(f"label numbers are {dict(numbers)}; expected {NUMBERS}")
    return found


@dataclass(frozen=True)
class Masks:
    """A folder of masks, each named as its scan: as ``segment`` and nnU-Net write them.

    Raises:
        DataError: If there is no such folder.
        ValueError: If the source is no short name.
    """

    folder: Path  # folder; its subfolders are searched, too
    source: str = ""  # who made them, for ``mask_source``; empty takes what ``segment`` noted there
    # raw label number -> structure
    labels: Mapping[int, Structure] = field(default_factory=lambda: CANONICAL, hash=False)
    only_missing: bool = False  # whether a case that has a mask of its own keeps it

    def __post_init__(self) -> None:
        if not Path(self.folder).is_dir():
            raise DataError(f"no folder {self.folder}; expected one with a mask for each scan")
        for folder in (Path(self.folder), Path(self.folder).absolute().parent):
            if command_of(folder) == "segment" and not (folder / NOTE).is_file():
                raise DataError(
                    f"segment did not finish in {folder}: run it again, or masks of two calls are "
                    "mixed"
                )
        if self.source and not re.fullmatch(SOURCE, self.source):
            raise ValueError(
                f"mask source is {short(self.source)}; expected up to 64 letters, digits and ._:+-"
            )

    def named(self, private: bool = False) -> Masks:
        """Returns the same masks with a source; ``private`` says that what the folder says of
        itself may not be told on. Refuses other numbers than those that ``segment`` noted."""
        numbers = self.note.get("labels")
        if isinstance(numbers, dict) and label_numbers(numbers) != self.labels:
            spelled = ",".join(f"{name}={number}" for name, number in numbers.items())
            raise DataError(
                f"{self.folder} holds masks whose numbers are {spelled}, as segment noted; give "
                f"--mask-labels {spelled} (labels=)"
            )
        noted = None if private else self.note.get("segmenter")
        known = isinstance(noted, str) and re.fullmatch(SOURCE, noted)
        return replace(self, source=self.source or (str(noted) if known else PREDICTED))

    @cached_property
    def note(self) -> dict[str, Any]:
        """What ``segment`` noted there, or beside them if this is its folder ``masks``."""
        file, above = Path(self.folder) / NOTE, Path(self.folder).absolute().parent
        if not file.is_file() and command_of(above) == "segment":
            file = above / NOTE
        return read_json(file) if file.is_file() else {}

    @cached_property
    def files(self) -> dict[str, list[Path]]:
        """The masks, by the names of their scans."""
        found: dict[str, list[Path]] = {}
        for path in sorted(Path(self.folder).rglob("*")):
            if path.name.lower().endswith(ENDS) and not path.name.startswith("."):
                found.setdefault(scan_name(path), []).append(path)
        return found

    @cached_property
    def folders(self) -> dict[str, str]:
        """Case -> its folder, where ``segment`` could not call it after the case."""
        noted = self.note.get("folders")
        return noted if isinstance(noted, dict) else {}

    def find(self, image: Path, case: str) -> Path:
        """Finds the mask of a scan: the one of its name, or of its case's. Refuses a choice that is
        not clear."""
        name = scan_name(image)
        found = self.files.get(name) or self.files.get(case) or []
        own = self.folders.get(case, case)
        near = [path for path in found if own in path.relative_to(self.folder).parts[:-1]]
        if len(near) > 1:  # each scan of this name is in a folder of its own
            near = [path for path in near if path.parent.name == image.parent.name]
        if len(near or found) > 1:
            raise DataError(
                f"no mask: {len(found)} masks are called {name}; expected one, or each in a folder "
                f"called {case}"
            )
        if not found:
            names = " or ".join(dict.fromkeys((name, case)))
            raise DataError(f"no mask: none is called {names}")
        (path,) = near or found
        check_content(path)
        return path


def noted_phases(mask: Path) -> dict[str, int]:
    """Returns phase -> frame, from 0, as ``segment`` noted it of a mask that it wrote: ED and ES
    were found before they were looked at closely, which moves volumes. Empty of any other mask.

    Example:
        >>> noted_phases(Path("mask_of_an_expert.nii.gz"))
        {}
    """
    path = Path(os.path.abspath(mask))
    for folder in path.parents[1:4]:  # FOLDER/masks/NAME, or one or two folders below masks/
        if command_of(folder) == "segment" and (folder / NOTE).is_file():
            noted = read_json(folder / NOTE).get("phases", {})
            return dict(noted.get(path.relative_to(folder).as_posix(), {}))
    return {}


def refuse_shared(records: Iterable[CaseRecord]) -> None:
    """Refuses one mask for several scans, which happens where all scans have one name.

    Example:
        >>> refuse_shared([])
    """
    owner: dict[Path, str] = {}
    for record in records:
        other = owner.setdefault(record.mask, record.case)
        if other != record.case and record.mask_source != MANUAL:
            raise DataError(
                f"{record.mask.name} would be the mask of {other} and of {record.case}, whose "
                "scans have the same name; put each mask into a folder called after its case"
            )


def predicted_masks(sources: Mapping[str, int]) -> str:
    """Says how many patients have predicted masks, of who made masks -> of how many patients; empty
    if none has.

    Example:
        >>> print(predicted_masks({"acdc": 3}))
        the masks of all 3 were predicted (3 by acdc): areas and volumes are the segmenter's
        >>> predicted_masks({"manual": 9})
        ''
    """
    by = {name: count for name, count in sources.items() if name != MANUAL}
    if not by:
        return ""
    count, total = sum(by.values()), sum(sources.values())
    made = ", ".join(
        f"{n} by {'an unnamed segmenter' if name == PREDICTED else name}" for name, n in by.items()
    )
    if count == total:
        return (
            f"the masks of all {total} were predicted ({made}): areas and volumes are the "
            "segmenter's"
        )
    return (
        f"the masks of {count} of {total} were predicted ({made}) and the others drawn by hand: "
        "every score mixes the two; preprocess them apart to tell them apart"
    )
