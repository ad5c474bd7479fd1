"""A manifest and a folder become case records. Opens no image: damage shows when one is read."""

from __future__ import annotations

import csv
import re
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from reprlib import repr as short
from typing import NamedTuple

from ..runtime.messages import without_folder
from ..runtime.yaml_files import nearest
from ..schema import SPLITS, CaseRecord, DataError, ManifestError
from .manifest import ENDS, INSIDE, PHASES, Manifest, below, is_inside

NO_MASK = "no mask"
"""How the reason begins for which an unlabelled case is skipped."""


class Skipped(NamedTuple):
    """A case that cannot be used, and why."""

    case: str
    reason: str


class Cases(NamedTuple):
    """Usable cases sorted by id, and the others with the reason."""

    records: list[CaseRecord]
    skipped: list[Skipped]


def find_cases(manifest: Manifest, source: str | Path, phase: str = "ED") -> Cases:
    """Walks the folders of a data set and reads what is said about each case; opens no image.

    Args:
        manifest: What to look for.
        source: Folder with the data, or a parent from which the manifest's ``roots`` lead there.
        phase: ``ED`` or ``ES``.

    Returns:
        The records sorted by case, and the cases left out, each with the reason. Known duplicates
        are still in; ``drop_duplicates`` takes them out.

    Raises:
        DataError: If there is no case at all, or no table where one is needed.
        ManifestError: If the manifest gives no such phase, or its columns are not in the table.
    """
    if phase not in PHASES or not manifest.gives(phase):
        given = ", ".join(p for p in PHASES if manifest.gives(p))
        raise ManifestError(
            f"phase is {phase!r}; expected one that {manifest.name!r} gives: {given}"
        )
    root = find_root(manifest, source)
    rows = read_table(manifest, root) if manifest.table else {}
    records: dict[str, CaseRecord] = {}
    skipped: list[Skipped] = []
    for folder in manifest.folders:
        _stay_inside(root, root / _place(manifest, folder))
        for case in list_cases(manifest, root, folder, phase):
            try:
                if not case.isprintable():
                    raise DataError("its name holds characters that cannot be printed")
                if manifest.lists_files and (not is_inside(case) or "/" in case):
                    raise DataError(f"its id is {short(case)}; expected one without / and \\")
                if case in records:
                    raise DataError(f"the id occurs again in {folder}; a case has one split")
                facts = _facts(manifest, root, folder, case, rows)
                records[case] = _record(manifest, root, folder, case, phase, facts)
            except (DataError, OSError) as error:
                name = case if case.isprintable() else ascii(case).strip("'")
                skipped.append(Skipped(name, without_folder(error)))
    if not records and not skipped:
        raise DataError(
            f"no case of {manifest.name!r} in {root}: looked for "
            f"{manifest.image or 'rows of the table'} in {_listed(manifest.folders)}. "
            f"{_usage(manifest)}"
        )
    return Cases([records[case] for case in sorted(records)], sorted(skipped))


def _stay_inside(root: Path, file: Path) -> None:
    """Refuses a link by which a data set would have files read that lie elsewhere.

    Raises:
        DataError: If ``file``, links followed, is not below ``root``.
    """
    if not file.resolve().is_relative_to(root.resolve()):
        raise DataError(
            f"{file.name} is a link, or below one, that leads out of the source folder; put the "
            "files themselves there, or pass the folder that holds them as --source"
        )


def drop_duplicates(records: Iterable[CaseRecord], manifest: Manifest) -> Cases:
    """Keeps one case of each known group of duplicates.

    The held-out case stays (test before val before train, then the first id), so that no scan that
    a model is tested on is one that it was trained on.
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


def find_root(manifest: Manifest, source: str | Path) -> Path:
    """The folder that holds the manifest's folders: one of its ``roots`` below ``source``.

    Raises:
        DataError: If there is none; says what was looked for, what was found and what to pass.
    """
    source = Path(source)
    if not source.is_dir():
        raise DataError(f"{source} is not a folder. {_usage(manifest)}")
    places = [_place(manifest, folder) for folder in manifest.folders]
    for root in manifest.roots:
        if any((source / root / place).is_dir() for place in places):
            _stay_inside(source, source / root)
            return source / root
    found = _listed(sorted(path.name for path in source.iterdir()))
    raise DataError(
        f"no {manifest.name!r} data in {source}: looked for {_listed(places)}, found "
        f"{found}. {_usage(manifest)}"
    )


def _place(manifest: Manifest, folder: str) -> str:
    """What must be there, below the root, for a folder of the manifest to be there."""
    start, found, rest = manifest.image.partition("{folder}")
    place = f"{start}{found}{rest.partition('/')[0]}" if found else "{folder}"
    return place.format(folder=folder, phase="ED")


def list_cases(manifest: Manifest, root: Path, folder: str, phase: str = "ED") -> list[str]:
    """Ids of the cases in one folder, sorted, whether they can be used or not.

    The first part of the image or mask path that has ``{case}`` in it names the cases: a folder
    per case, or a file per case. Ids come from the disk alone, so none of them leads out of it;
    or from the table, where it lists the files.
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
            if match and path.is_dir() == bool(slash) and not path.name.startswith((".", "__")):
                # p1_gt.nii.gz fits {case}.nii.gz and {case}_gt.nii.gz; the shorter id is right
                ids[path] = min(match["case"], ids.get(path, match["case"]), key=len)
    return sorted(set(ids.values()))


def _regex(part: str, phase: str) -> re.Pattern[str]:
    """What one part of a path looks like on disk, with the groups ``case`` and ``frame``."""
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
            f"{phase} is the {end} of its frames, and there is but {len(numbers)}; expected two or "
            "more, to tell ED from ES"
        )
    return min(numbers) if end == "first" else max(numbers)


def read_table(manifest: Manifest, root: Path) -> dict[str, list[dict[str, str]]]:
    """Rows of the data set's CSV by case id; several rows where the table repeats an id.

    Raises:
        DataError: If no CSV of the expected names is there, or several are.
        ManifestError: If it lacks a column that the manifest names.
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
    _stay_inside(root, files[0])
    columns, table = _rows(files[0])
    # Older copies of a data set say less about a case; nothing is lost but the description.
    optional = {"vendor", "centre", "pathology"} - {manifest.domain}
    for fact, column in manifest.columns.items():
        if columns.count(column) > 1:
            raise ManifestError(f"{files[0].name} has several columns {column!r}; expected one")
        if column not in columns and fact not in optional:
            raise ManifestError(
                f"no column {column!r} (for {fact}) in {files[0].name}{nearest(column, columns)}; "
                f"found {_listed(filter(None, columns))}"
            )
    rows: dict[str, list[dict[str, str]]] = {}
    for row in table:
        rows.setdefault(row[manifest.columns["case"]], []).append(row)
    return rows


def _rows(file: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of a CSV. A row of another length has its values under wrong names."""
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        header = stream.readline()
        stream.seek(0)
        # Spreadsheets write ';' where a comma separates decimals.
        reader = csv.reader(stream, delimiter=max(",;\t", key=header.count), strict=True)
        table = []
        try:
            columns = [column.strip() for column in next(reader, [])]
            for fields in filter(any, reader):
                row = [text.strip() for text in fields]
                if len(row) < len(columns) or any(row[len(columns) :]):
                    raise DataError(
                        f"line {reader.line_num} of {file.name} has {len(row)} values; expected "
                        f"{len(columns)}, one for each column, in quotes where one holds a "
                        f"{reader.dialect.delimiter!r}"
                    )
                table.append(dict(zip(columns, row, strict=False)))
        except csv.Error as error:
            raise DataError(f"line {reader.line_num} of {file.name} is no CSV: {error}") from None
    return columns, table


def _usage(manifest: Manifest) -> str:
    places = [place for folder in manifest.folders if (place := _place(manifest, folder)) != "."]
    files = manifest.image or _listed(manifest.table)
    return f"Pass the folder that holds {' or '.join(places) or files} as --source"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if names[8:] else "") or "nothing"


def _facts(
    manifest: Manifest, root: Path, folder: str, case: str, rows: Mapping[str, list]
) -> dict[str, str]:
    """What the data set says about a case, by the package's names; blanks left out."""
    said: Mapping[str, str] = {}
    if manifest.table:
        found = rows.get(case) or rows.get(case.lstrip("0"))  # a spreadsheet turns 007 into 7
        if not found:
            raise DataError("the table has no row for it")
        if any(row != found[0] for row in found):
            raise DataError(f"the table has {len(found)} rows for it, and they differ")
        said = found[0]
    elif manifest.info:
        file = root / below(folder, manifest.info).format(case=case)
        if not file.is_file():
            raise DataError(f"{file.name} is missing")
        _stay_inside(root, file)
        said = _info(file, set(manifest.columns.values()))
    facts = {fact: str(value) for fact, value in manifest.constants.items()}
    for fact, column in manifest.columns.items():
        if said.get(column, "").lower() not in ("", "nan"):
            facts[fact] = said[column]
    return facts


def _info(file: Path, keys: Container[str]) -> dict[str, str]:
    """What lines of ``key: value`` say of some keys."""
    said: dict[str, str] = {}
    for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        key, text = (part.strip() for part in line.partition(":")[::2])
        if key in keys and said.setdefault(key, text) != text:
            raise DataError(
                f"{file.name} gives {short(key)} as {short(said[key])} and as {short(text)}"
            )
    return said


def _frame(manifest: Manifest, facts: Mapping[str, str], phase: str) -> int:
    """0-based position of the phase in the cine."""
    if phase not in facts:
        raise DataError(f"{phase} is not given: {manifest.columns[phase]} is empty or missing")
    numbers = []
    for fact in (phase, "frames"):
        text = facts.get(fact, "1000000")  # without a number of frames, only the header can tell
        if not re.fullmatch(r"-?\d{1,9}(\.0*)?", text):  # a spreadsheet may write 4.0
            raise DataError(f"{fact} is {short(text)}; expected a whole number")
        numbers.append(int(float(text)))
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
    manifest: Manifest, root: Path, folder: str, case: str, phase: str, facts: Mapping[str, str]
) -> CaseRecord:
    end = facts.get(phase, "")
    if end in ENDS and end == manifest.constants.get(phase):
        facts = {**facts, phase: str(_end(manifest, root, folder, case, phase, end))}
    frame = _frame(manifest, facts, phase)
    files = dict(zip(("image", "mask"), manifest.paths(case, frame, phase, folder), strict=True))
    for kind in files.keys() & manifest.columns.keys():
        files[kind] = below(folder, _path(kind, facts))
    image, mask = (root / path for path in files.values())
    of_dicom = image.is_dir() and (manifest.image.endswith("/") or not manifest.image)
    if not of_dicom and not image.is_file():
        raise DataError(f"{image.name} is missing")
    if not mask.is_file():
        raise DataError(f"{NO_MASK}: {mask.name} is missing")
    for file in (image, mask):
        _stay_inside(root, file)
    split = manifest.folders[folder]
    if split == "column":
        value = facts.get("split", "")
        split = manifest.split_values.get(value, value)
        if split not in SPLITS:
            accepted = _listed([*SPLITS, *manifest.split_values])
            raise DataError(f"its split is {short(value)}; expected one of {accepted}")
    if split == "train" and manifest.hold_out:
        split = manifest.hold_out.split(case)
    return CaseRecord(
        case=case,
        dataset=manifest.name,
        split=split,
        image=image,
        mask=mask,
        frame=frame,
        label_numbers=manifest.labels,
        domain=facts.get(manifest.domain, manifest.name),
        phase=phase,
        match=manifest.match or ("affine" if of_dicom else "order"),
        **{fact: facts.get(fact, "") for fact in ("vendor", "centre", "pathology")},
    )
