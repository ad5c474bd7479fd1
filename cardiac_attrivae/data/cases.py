"""Finds the cases of a data set by its manifest. Opens no image: damage shows when one is read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from reprlib import repr as short
from typing import NamedTuple

from ..runtime.messages import without_folder
from ..schema import (
    MANUAL,
    SPLITS,
    SYNTHETIC,
    UNFINISHED,
    CaseRecord,
    DataError,
    ManifestError,
)
from .case_table import Rows, match_rows, normalised, read_info, same_id
from .case_table import read_table as read_csv
from .links import check_content
from .manifest import ENDS, INSIDE, PHASES, Manifest, below, is_inside
from .masks import Masks, refuse_shared

NO_MASK = "no mask"
"""Beginning of the reason for which a case without a mask is skipped."""


class Skipped(NamedTuple):
    """A case that cannot be used, and why."""

    case: str
    reason: str


class Cases(NamedTuple):
    """Usable cases sorted by id, and the others with the reason."""

    records: list[CaseRecord]
    skipped: list[Skipped]


def find_cases(
    manifest: Manifest, source: str | Path, phase: str = "ED", masks: Masks | None = None
) -> Cases:
    """Finds the cases of a data set and reads what is said about each; opens no image.

    Args:
        manifest: Describes the data set.
        source: Folder with the data, or a parent from which the manifest's ``roots`` lead there.
        phase: ``ED`` or ``ES``.
        masks: Masks that lie elsewhere; None takes those that the manifest names.

    Returns:
        The records sorted by case, and the cases left out, each with the reason. Known duplicates
        are included; ``drop_duplicates`` removes them.

    Raises:
        DataError: If there is no case at all, no table where one is needed, or one mask for several
            cases.
        ManifestError: If the manifest gives no such phase, or its columns are not in the table.

    Example:
        >>> from cardiac_attrivae.data.manifest import load_manifest
        >>> folder = Path("training/patient001")
        >>> folder.mkdir(parents=True)
        >>> _ = (folder / "Info.cfg").write_text("ED: 1\\nES: 12\\nNbFrame: 30\\n")
        >>> (folder / "patient001_frame01.nii.gz").touch()
        >>> find_cases(load_manifest("acdc"), ".").skipped[0].reason
        'no mask: patient001_frame01_gt.nii.gz is missing'
    """
    if phase not in PHASES or not manifest.gives(phase):
        given = ", ".join(p for p in PHASES if manifest.gives(p))
        raise ManifestError(
            f"phase is {phase!r}; expected one that {manifest.name!r} gives: {given}"
        )
    root = find_root(manifest, source)
    rows = read_table(manifest, root) if manifest.table else {}
    found = {folder: list_cases(manifest, root, folder, phase) for folder in manifest.folders}
    row_of = match_rows(rows, (case for cases in found.values() for case in cases))
    records: dict[str, CaseRecord] = {}
    skipped: list[Skipped] = []
    for folder, case in ((key, case) for key, cases in found.items() for case in cases):
        name = normalised(case)
        try:
            if not name.isprintable():
                raise DataError("its name holds characters that cannot be printed")
            if manifest.lists_files and (not is_inside(case) or "/" in case):
                raise DataError(f"its id is {short(case)}; expected one without / and \\")
            if name in records:
                raise DataError(f"the id occurs again in {folder}; a case has one split")
            facts = _facts(manifest, root, folder, case, rows, row_of)
            records[name] = _record(manifest, root, folder, case, phase, facts, masks)
        except (DataError, OSError) as error:
            name = name if name.isprintable() else ascii(case).strip("'")
            skipped.append(Skipped(name, without_folder(error)))
    if not records and not skipped:
        raise DataError(_no_case(manifest, root))
    refuse_shared(records.values())
    return Cases([records[case] for case in sorted(records)], sorted(skipped))


def _no_case(manifest: Manifest, root: Path) -> str:
    """Says what was looked for where, and what is there."""
    if not manifest.image:
        return f"no case of {manifest.name!r} in {root}: the table has no rows"
    files = [below(folder, manifest.image) for folder in manifest.folders]
    within = [root / file.partition("{")[0].rpartition("/")[0] for file in files]
    there = [path.name for folder in within if folder.is_dir() for path in folder.iterdir()]
    return (
        f"no case of {manifest.name!r} in {root}: looked for {_listed(files)}, found "
        f"{_listed(sorted(there))}. {_usage(manifest)}"
    )


def drop_duplicates(records: Iterable[CaseRecord], manifest: Manifest) -> Cases:
    """Keeps one case of each known group of duplicates.

    The held-out case stays (test before val before train, then the first id), so that no model is
    tested on a scan that it was trained on.

    Example:
        >>> from cardiac_attrivae.data.manifest import load_manifest
        >>> drop_duplicates([], load_manifest("acdc"))
        Cases(records=[], skipped=[])
    """
    records = list(records)
    reasons = {}
    for group in manifest.duplicates:
        present = [record for record in records if record.case in group]
        present.sort(key=lambda record: (-SPLITS.index(record.split), record.case))
        for record in present[1:]:
            reasons[record.case] = (
                f"same scan as {present[0].case} ({present[0].split}), kept there"
            )
    kept = [record for record in records if record.case not in reasons]
    return Cases(kept, sorted(Skipped(case, reason) for case, reason in reasons.items()))


def across_splits(records: Iterable[CaseRecord], manifest: Manifest) -> int:
    """Counts the cases that are a known duplicate of a case in another split.

    Example:
        >>> from cardiac_attrivae.data.manifest import load_manifest
        >>> across_splits([], load_manifest("acdc"))
        0
    """
    split = {record.source_case or record.case: record.split for record in records}
    groups = ([case for case in group if case in split] for group in manifest.duplicates)
    return sum(len(group) - 1 for group in groups if len({split[case] for case in group}) > 1)


def find_root(manifest: Manifest, source: str | Path) -> Path:
    """Finds the folder that holds the manifest's folders: one of its ``roots`` below ``source``.

    Raises:
        DataError: If there is none, which says what was looked for, what was found and what to
            pass; or it holds phantoms that were not written to the end.

    Example:
        >>> from cardiac_attrivae.data.manifest import load_manifest
        >>> Path("download/database/training").mkdir(parents=True)
        >>> find_root(load_manifest("acdc"), "download").name
        'database'
    """
    source = Path(source)
    if not source.is_dir():
        raise DataError(f"{source} is not a folder. {_usage(manifest)}")
    places = [_place(manifest, folder) for folder in manifest.folders]
    for root in manifest.roots:
        if any((source / root / place).is_dir() for place in places):
            _refuse_unfinished(source / root)
            return source / root
    found = _listed(sorted(path.name for path in source.iterdir()))
    raise DataError(
        f"no {manifest.name!r} data in {source}: looked for {_listed(places)}, found "
        f"{found}. {_usage(manifest)}"
    )


def _refuse_unfinished(root: Path) -> None:
    """Refuses phantoms that were not written to the end: patients are missing from every split."""
    file = root / SYNTHETIC
    if file.is_file() and UNFINISHED in file.read_text("utf-8", "replace"):
        raise DataError(
            f"the set of phantoms is not finished: cardiac-attrivae phantom still writes {root}, "
            "or was interrupted. Wait for it, or remove the folder and repeat the command"
        )


def _place(manifest: Manifest, folder: str) -> str:
    """The path below the root that shows whether a folder of the manifest exists."""
    start, found, rest = manifest.image.partition("{folder}")
    place = f"{start}{found}{rest.partition('/')[0]}" if found else "{folder}"
    return place.format(folder=folder, phase="ED")


def list_cases(manifest: Manifest, root: Path, folder: str, phase: str = "ED") -> list[str]:
    """Lists the ids of the cases in one folder, sorted, whether they can be used or not.

    The first part of the image or mask path that has ``{case}`` in it names the cases: a folder
    per case, or a file per case. Ids are names of files, so none of them leads out of the source
    folder; where the table lists the files, they come from the table.

    Example:
        >>> from cardiac_attrivae.data.manifest import load_manifest
        >>> Path("acdc/training/patient007").mkdir(parents=True)
        >>> list_cases(load_manifest("acdc"), Path("acdc"), "training")
        ['patient007']
    """
    if manifest.lists_files:
        return sorted(read_table(manifest, root))
    ids: dict[Path, str] = {}
    for pattern in (below(folder, manifest.image), below(folder, manifest.mask)):
        before, _, after = pattern.partition("{case}")
        parent, _, start = before.rpartition("/")
        part, slash, _ = f"{start}{{case}}{after}".partition("/")
        regex, within = _regex(part, phase), root / parent.format(phase=phase)
        for path in within.iterdir() if within.is_dir() else ():
            match = regex.fullmatch(path.name)
            fits = path.is_dir() == bool(slash) or path.is_symlink() and not path.exists()
            if match and fits and not path.name.startswith((".", "__")):
                # p1_gt.nii.gz fits {case}.nii.gz and {case}_gt.nii.gz; the shorter id is right
                ids[path] = min(match["case"], ids.get(path, match["case"]), key=len)
    return sorted(set(ids.values()))


def _regex(part: str, phase: str) -> re.Pattern[str]:
    """Pattern of one part of a path, with the groups ``case`` and ``frame``."""
    text = re.escape(part.replace("{phase}", phase))
    text = text.replace(r"\{case\}", "(?P<case>.+)", 1).replace(r"\{case\}", "(?P=case)")
    text = re.sub(r"\\\{frame.*?\\\}", r"(?P<frame>\\d+)", text, count=1)
    return re.compile(re.sub(r"\\\{frame.*?\\\}", r"\\d+", text), re.DOTALL)


def _end(manifest: Manifest, root: Path, folder: str, case: str, phase: str, end: str) -> int:
    """Number of the first or last frame of a case, of those that are files of their own."""
    parent, _, name = below(folder, manifest.image).rpartition("/")
    regex, within = _regex(name, phase), root / parent.format(case=case, phase=phase)
    found = [regex.fullmatch(path.name) for path in within.iterdir()] if within.is_dir() else []
    numbers = {int(m["frame"]) for m in found if m and m.groupdict().get("case", case) == case}
    if len(numbers) < 2:
        raise DataError(
            f"{phase} is the {end} of its frames, of which there is only {len(numbers)}; expected "
            "two or more, to tell ED from ES"
        )
    return min(numbers) if end == "first" else max(numbers)


def read_table(manifest: Manifest, root: Path) -> Rows:
    """Finds the table of a data set and reads its rows by case id.

    Raises:
        DataError: If no CSV of the expected names is there, or several are.
        ManifestError: If it lacks a column that the manifest names.

    Example:
        >>> from cardiac_attrivae.data.manifest import load_manifest
        >>> _ = Path("info.csv").write_text("External code,VendorName,ED,ES\\nA1,GE,0,9\\n")
        >>> list(read_table(load_manifest("mnms"), Path(".")))
        ['A1']
    """
    matches = (sorted(f for f in root.glob(g) if f.name[0] != ".") for g in manifest.table)
    files = next(filter(None, matches), [])
    if not files:
        sheets = sorted(f.name for f in root.glob("*.xlsx") if f.name[0] not in ".~")
        hint = f"Open {sheets[0]} and save it as CSV, there." if sheets else _usage(manifest)
        raise DataError(
            f"no table of {manifest.name!r} in {root}: looked for {_listed(manifest.table)}. {hint}"
        )
    if len(files) > 1:
        raise DataError(
            f"{len(files)} tables in {root}: {_listed(f.name for f in files)}. Keep one of them, "
            "or name it in 'table' of a manifest of your own"
        )
    return read_csv(manifest, files[0])


def _usage(manifest: Manifest) -> str:
    places = [place for folder in manifest.folders if (place := _place(manifest, folder)) != "."]
    files = manifest.image or _listed(manifest.table)
    return f"Pass the folder that holds {' or '.join(places) or files} as the source"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if names[8:] else "") or "nothing"


def _facts(
    manifest: Manifest, root: Path, folder: str, case: str, rows: Rows, row_of: Mapping[str, str]
) -> dict[str, str]:
    """What the data set says about a case, by the package's names; blanks left out."""
    said: Mapping[str, str] = {}
    if manifest.table:
        if case not in row_of:
            similar = next((f", only for {row}" for row in rows if same_id(row, case)), "")
            raise DataError(f"the table has no row for it{similar}")
        found = rows[row_of[case]]
        if any(row != found[0] for row in found):
            raise DataError(f"the table has {len(found)} rows for it, and they differ")
        said = found[0]
    elif manifest.info:
        file = root / below(folder, manifest.info).format(case=case)
        check_content(file)
        if not file.is_file():
            raise DataError(f"{file.name} is missing")
        said = read_info(file, set(manifest.columns.values()))
    facts = {fact: str(value) for fact, value in manifest.constants.items()}
    for fact, column in manifest.columns.items():
        if said.get(column, "").lower() not in ("", "nan"):
            facts[fact] = said[column]
    return facts


def _frame(manifest: Manifest, facts: Mapping[str, str], phase: str) -> int:
    """0-based position of the phase in the cine."""
    if phase not in facts:
        raise DataError(f"{phase} is not given: {manifest.columns[phase]} is empty or missing")
    numbers = []
    for fact in (phase, "frames"):
        text = facts.get(fact, "1000000")  # without a number of frames, only the header can tell
        match = re.fullmatch(r"(-?\d{1,9})([.,]0*)?", text)  # a spreadsheet may write 4.0 or 4,0
        if not match:
            raise DataError(f"{fact} is {short(text)}; expected a whole number")
        numbers.append(int(match[1]))
    low, high = manifest.frame_base, numbers[1] - 1 + manifest.frame_base
    if not low <= numbers[0] <= high:
        raise DataError(f"{phase} is frame {numbers[0]}; expected {low} to {high}")
    return numbers[0] - low


def _path(kind: str, facts: Mapping[str, str]) -> str:
    """Path of image or mask as the table gives it."""
    if kind == "mask" and kind not in facts:
        raise DataError(f"{NO_MASK}: the table gives none")
    if not is_inside(facts.get(kind)):
        raise DataError(f"its {kind} is {short(facts.get(kind, ''))}; expected a path {INSIDE}")
    return facts[kind]


def _record(
    manifest: Manifest,
    root: Path,
    folder: str,
    case: str,
    phase: str,
    facts: Mapping[str, str],
    masks: Masks | None,
) -> CaseRecord:
    end = facts.get(phase, "")
    if end in ENDS and end == manifest.constants.get(phase):
        facts = {**facts, phase: str(_end(manifest, root, folder, case, phase, end))}
    frame = _frame(manifest, facts, phase)
    files = dict(zip(("image", "mask"), manifest.paths(case, frame, phase, folder), strict=True))
    elsewhere = masks is not None and not masks.only_missing
    for kind in files.keys() & manifest.columns.keys():
        if kind == "image" or kind in facts or masks is None:
            files[kind] = below(folder, _path(kind, facts))
    image, mask = (root / path for path in files.values())
    for file in (image,) if elsewhere else (image, mask):
        check_content(file)
    of_dicom = image.is_dir() and (manifest.image.endswith("/") or not manifest.image)
    if not of_dicom and not image.is_file():
        raise DataError(f"{image.name} is missing")
    made_by, numbers = MANUAL, manifest.labels
    if masks is not None and (elsewhere or not mask.is_file()):
        mask, made_by, numbers = masks.find(image, case), masks.source, masks.labels
    if not mask.is_file():
        raise DataError(f"{NO_MASK}: {mask.name} is missing")
    split = manifest.folders[folder]
    if split == "column":
        value = facts.get("split", "")
        split = manifest.split_values.get(value, value)
        if split not in SPLITS:
            accepted = _listed([*SPLITS, *manifest.split_values])
            raise DataError(f"its split is {short(value)}; expected one of {accepted}")
    if split == "train" and manifest.hold_out:
        split = manifest.hold_out.split(normalised(case))
    return CaseRecord(
        case=normalised(case),
        dataset=manifest.name,
        split=split,
        image=image,
        mask=mask,
        frame=frame,
        label_numbers=numbers,
        domain=facts.get(manifest.domain, manifest.name),
        phase=phase,
        match=manifest.match or ("affine" if of_dicom else "order"),
        mask_source=made_by,
        vendor=facts.get("vendor", ""),
        centre=facts.get("centre", ""),
        pathology=facts.get("pathology", ""),
    )
