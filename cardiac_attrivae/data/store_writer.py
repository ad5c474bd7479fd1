"""Writes a slice store: one file for each finished case, then all of them joined."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
from safetensors.numpy import load, save

from ..attributes import ATTRIBUTES, names_at
from ..report.contact_sheet import chosen, contact_sheet
from ..report.style import stacked
from ..runtime.files import atomic_file, read_checked, write, write_checked
from ..runtime.provenance import seal, versions
from ..runtime.spreadsheet import quoted
from ..schema import SPLITS, CaseRecord, DataError, Phase
from .cases import Skipped
from .store import content_hash
from .store_files import FORMAT, SPACING, mask_entry
from .store_place import FILES

PACKAGES = ("monai", "nibabel", "numpy", "pandas", "torch")
FACTS = ("case", "dataset", "split", "domain", "vendor", "centre", "pathology", "phase", "frame")
ARRAYS, TEXTS = ("images", "labels", "mask", "later_mask", "crop"), ("rows", "remarks")
"""Arrays and lists of texts in the file of a finished case."""


def columns(phases: Sequence[str] = (Phase.ED,)) -> tuple[str, ...]:
    """Returns the columns of cases.csv: with the attributes that the masks of these phases give.

    Example:
        >>> columns()[0], columns()[-1]
        ('case', 'RVEDA')
    """
    names = names_at([*map(Phase, phases)])
    return (*FACTS, "slice_index", *SPACING, "rotation_deg", "mask_source", *names)


def case_file(folder: Path, record: CaseRecord) -> Path:
    """Names the file of a finished case in a folder.

    The name changes with the case and with its files (size and times), so that a case whose files
    were changed is not taken from an earlier call. Only a digest of the id can be a file name.

    Example:
        >>> for name in ("image.nii", "mask.nii"):
        ...     _ = Path(name).write_text("voxels")
        >>> files = dict(image=Path("image.nii"), mask=Path("mask.nii"), label_numbers={})
        >>> about = dict(case="p1", dataset="own", split="train", frame=0, domain="own")
        >>> before = case_file(Path("done"), CaseRecord(**about, **files))
        >>> _ = Path("mask.nii").write_text("corrected voxels")
        >>> before == case_file(Path("done"), CaseRecord(**about, **files))
        False
    """
    known = [record.case, *([record.phase] if record.phase != "ED" else [])]
    for path in record.files:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for status in (file.stat() for file in files if file.exists()):
            known += [str(n) for n in (status.st_size, status.st_mtime_ns, status.st_ctime_ns)]
    return folder / f"case-{hashlib.sha256('/'.join(known).encode()).hexdigest()[:16]}"


def save_case(file: Path, arrays: Mapping[str, Any]) -> None:
    """Writes a finished case, each of `ARRAYS` and `TEXTS`, see `write_checked`.

    Example:
        >>> save_case(Path("case"), dict.fromkeys(ARRAYS, np.eye(1)) | dict.fromkeys(TEXTS, "ab"))
        >>> load_case(Path("case"))["mask"].tolist(), load_case(Path("case"))["rows"]
        ([[1.0]], ['a', 'b'])
    """
    parts = {name: np.ascontiguousarray(arrays[name]) for name in ARRAYS}
    for name in TEXTS:
        parts[name] = np.frombuffer(json.dumps([*arrays[name]]).encode(), np.uint8)
    write_checked(file, save(parts))


def load_case(file: Path) -> dict[str, Any]:
    """Reads a finished case; a DataError if it is damaged.

    Example:
        >>> save_case(Path("case"), dict.fromkeys(ARRAYS, np.eye(1)) | dict.fromkeys(TEXTS, "ab"))
        >>> _ = Path("case").write_bytes(Path("case").read_bytes()[:-1])
        >>> load_case(Path("case"))
        Traceback (most recent call last):
        cardiac_attrivae.schema.DataError: case is damaged; the same command again repeats that case
    """
    content = read_checked(file)
    if content is None:
        raise DataError(f"{file.name} is damaged; the same command again repeats that case")
    parts: dict[str, Any] = load(content)
    return parts | {name: json.loads(parts[name].tobytes()) for name in TEXTS}


def is_finished(file: Path) -> bool:
    """Tells whether there is a finished case, and it is complete.

    Example:
        >>> is_finished(Path("absent"))
        False
    """
    try:
        return bool(load_case(file))
    except (DataError, FileNotFoundError):
        return False


def assemble(
    store: Path,
    cases: Iterable[Path],
    skipped: Iterable[Skipped],
    about: Mapping[str, Any],
    phases: Sequence[str] = (Phase.ED,),
) -> dict[str, Any]:
    """Joins the finished cases into the files of a store.

    One case is in memory at a time, and a caption of each slice.

    Args:
        store: Empty folder.
        cases: Files of the finished cases, sorted by case; of several frames of a case, the first
            gives its mask.
        skipped: Cases that are left out.
        about: Further facts for dataset.json.
        phases: Channels of the slices.

    Returns:
        Content of dataset.json.

    Example:
        >>> heart, row = np.zeros((1, 1, 8, 8)), dict.fromkeys(columns(), 1.0)
        >>> arrays = {"images": heart.astype("f4"), "labels": heart, "mask": np.eye(3)[None]}
        >>> arrays["later_mask"] = np.empty((0, 0, 0))
        >>> row |= {"case": "p1", "split": "train", "mask_source": "manual"}
        >>> arrays["rows"] = [json.dumps(row)]
        >>> arrays |= {"remarks": [], "crop": np.zeros((1, 2))}
        >>> save_case(Path("p1"), arrays)
        >>> Path("store").mkdir()
        >>> info = assemble(Path("store"), [Path("p1")], [], {"dataset": "mine"})
        >>> info["cases"], info["splits"]
        (1, {'train': 1, 'val': 0, 'test': 0})
    """
    splits, remarks, sources = Counter[str](), Counter[str](), Counter[str]()
    captions: list[str] = []
    crops: list[np.ndarray] = []
    case = ""
    with ExitStack() as files:
        beside = {name: files.enter_context(atomic_file(store / name)) for name in FILES}
        add_images = files.enter_context(appended(beside["images.npy"]))
        add_labels = files.enter_context(appended(beside["labels.npy"]))
        # as np.savez_compressed does it, for any case id and in a third of the time
        archive = ZipFile(beside["masks.npz"], "w", ZIP_DEFLATED, compresslevel=1)
        files.enter_context(archive)
        table = files.enter_context(open(beside["cases.csv"], "w", encoding="utf-8", newline=""))
        written = columns(phases)
        writer = csv.DictWriter(table, written, lineterminator="\n")
        writer.writeheader()
        for file in cases:
            part = load_case(file)
            add_images(part["images"])
            add_labels(part["labels"])
            rows = [json.loads(row) for row in part["rows"]]
            first = rows[0]["case"] != case
            case = rows[0]["case"]
            if first:
                for phase, mask in ((Phase.ED, part["mask"]), (Phase.ES, part["later_mask"])):
                    if mask.size:
                        with archive.open(mask_entry(case, phase), "w") as stream:
                            np.lib.format.write_array(stream, mask)
                splits[rows[0]["split"]] += 1
                sources[rows[0]["mask_source"]] += 1
            writer.writerows({key: _cell(row[key]) for key in written} for row in rows)
            captions += [f"{row['case']} z{row['slice_index']}" for row in rows]
            remarks.update(part["remarks"])
            crops.append(part["crop"])
    _write_skipped(store / "skipped.csv", skipped := list(skipped))
    _write_sheet(store, captions)
    info = {
        "format": FORMAT,
        **about,
        "cases": splits.total(),
        "slices": len(captions),
        "skipped": len(skipped),
        "splits": {split: splits[split] for split in SPLITS},
        "mask_sources": dict(sorted(sources.items())),
        "attributes": {name: ATTRIBUTES[name].unit for name in written if name in ATTRIBUTES},
        "remarks": dict(remarks),
        "crop": crop_facts(crops),
        "versions": versions(PACKAGES),
        "content_hash": content_hash(store),
    }
    info["sha256"] = seal(info)
    write(store / "dataset.json", json.dumps(info, indent=2) + "\n")
    return info


def crop_facts(crops: list[np.ndarray]) -> dict[str, float]:
    """Summarises whether the crops hold the whole hearts.

    Args:
        crops: Of each case, for each of its slices (n, 2): the share of the heart's pixels outside
            the crop, and the side in mm of the square that would hold all of them.

    Returns:
        ``cases_cut`` and ``slices_cut``, how many hearts leave the crop; ``largest_share_cut``;
        and ``needed_mm``, the side of a crop that holds every heart.

    Example:
        >>> crop_facts([np.array([[0.0, 120.4]]), np.array([[0.25, 203.0], [0.0, 150.0]])])
        {'cases_cut': 1, 'slices_cut': 1, 'largest_share_cut': 0.25, 'needed_mm': 203}
    """
    share, needed = np.concatenate(crops).T
    return {
        "cases_cut": sum(bool((crop[:, 0] > 0).any()) for crop in crops),
        "slices_cut": int((share > 0).sum()),
        "largest_share_cut": round(float(share.max()), 4),
        "needed_mm": math.ceil(needed.max()),
    }


def _cell(value: Any) -> Any:
    """Text that no spreadsheet runs; a blank for what is not known."""
    if isinstance(value, float) and math.isnan(value):
        return ""
    return quoted(value) if isinstance(value, str) else value


def _write_skipped(file: Path, skipped: Iterable[Skipped]) -> None:
    table, rows = io.StringIO(newline=""), ([*map(quoted, row)] for row in skipped)
    csv.writer(table, lineterminator="\n").writerows([Skipped._fields, *rows])
    write(file, table.getvalue())


def _write_sheet(store: Path, captions: list[str]) -> None:
    shown = chosen(len(captions))
    images, labels = (  # mapped again for some slices each: what was read of a map stays in memory
        np.stack(
            [
                _tile(channels)
                for rows in np.array_split(shown, 1 + len(shown) // 64)
                for channels in np.load(store / f"{name}.npy", mmap_mode="r")[rows]
            ]
        )
        for name in ("images", "labels")
    )
    texts, sheet = [captions[row] for row in shown], store / "contact_sheet.png"
    contact_sheet(images, labels, texts, sheet, of=len(captions))


def _tile(channels: np.ndarray) -> np.ndarray:
    """Puts phases beside each other, stacks as columns from base to apex, see `stacked`."""
    return np.hstack([*channels]) if len(channels) < 3 else stacked(np.array(channels))


@contextmanager
def appended(file: Path) -> Iterator[Callable[[np.ndarray], None]]:
    """Writes a .npy file, byte by byte as np.save does, of arrays that are joined along axis 0.

    The header has room for any length, so that it is written again when the length is known.

    Example:
        >>> with appended(Path("joined.npy")) as add:
        ...     add(np.zeros((2, 3)))
        ...     add(np.ones((1, 3)))
        >>> np.load("joined.npy").shape
        (3, 3)
    """
    length = 0
    header: dict[str, Any] = {}
    with open(file, "wb") as stream:

        def add(array: np.ndarray) -> None:
            nonlocal length, header
            if not length:
                header = np.lib.format.header_data_from_array_1_0(array)
                np.lib.format.write_array_header_1_0(stream, header)
            length += len(array)
            stream.write(np.ascontiguousarray(array).data)

        yield add
        stream.seek(0)
        header["shape"] = (length, *header["shape"][1:])
        np.lib.format.write_array_header_1_0(stream, header)
