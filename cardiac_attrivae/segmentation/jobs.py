"""Finds the scans to segment: files of any kind, or the frames of a data set at ED and ES."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..data.cases import find_cases
from ..data.manifest import Manifest
from ..data.masks import Masks


class Job(NamedTuple):
    """A scan of a patient."""

    patient: str  # id of the patient
    path: Path  # file or DICOM folder
    # frame -> ``ED`` or ``ES``, where a data set says so; empty segments all frames
    phases: Mapping[int, str] = {}


class _Unneeded(Masks):
    """Stands for masks that a data set need not have, because they are to be made."""

    def find(self, image: Path, case: str) -> Path:
        return image if image.is_file() else next(p for p in image.rglob("*") if p.is_file())


def jobs_of(manifest: Manifest, source: Path) -> tuple[list[Job], list[tuple[str, str]]]:
    """Finds the frames of a data set at ED and ES, whether they have masks or not: a job for each
    file; and cases that cannot be used, with the reason."""
    phases: dict[tuple[str, Path], dict[int, str]] = {}
    skipped: list[tuple[str, str]] = []
    for phase in ("ED", "ES"):
        if not manifest.gives(phase):
            continue
        found = find_cases(manifest, source, phase, _Unneeded(source))
        known = {case for case, _ in skipped}
        where = "" if phase == "ED" else "at ES: "
        skipped += [(case, f"{where}{why}") for case, why in found.skipped if case not in known]
        for record in found.records:
            phases.setdefault((record.case, record.image), {})[record.frame] = phase
    jobs = [Job(case, path, frames) for (case, path), frames in phases.items()]
    return sorted(jobs, key=lambda job: job.patient), skipped


def scan_jobs(scans: Mapping[str, Path]) -> list[Job]:
    """Makes a job of each scan that no manifest describes.

    Example:
        >>> scan_jobs({"a": Path("a.nii.gz")})[0].patient
        'a'
    """
    return [Job(name, path) for name, path in scans.items()]
