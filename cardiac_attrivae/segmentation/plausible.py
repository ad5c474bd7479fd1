"""Says in words where predicted labels are no heart."""

from __future__ import annotations

import numpy as np

from ..data.anatomy import border_share, unlikely_size
from ..heart import pixel_counts, shows
from ..schema import HEART, STRUCTURES, Structure
from .cleaning import beyond_base

LEAST_PIXELS = 10
"""Pixels of a structure in a slice below which its shape says nothing."""
OPEN = 0.8
"""Share of the LV's border that is wall, below which a slice counts as open."""
LEFT_OUT = 0.05
"""Share of the LV above which another part is reported that is not connected with it."""
SHORTEST_MM = 50
"""What a stack must cover to hold a heart: the LV of 102 patients is 50 to 110 mm long."""
ENDLESS = 0.45
"""Ratio of the smallest to the largest area of the heart in a stack above which it ends nowhere:
in 200 frames of ACDC it is .38 at the most."""
RISE = 1.3
"""Ratio by which an area may exceed that of the next slice towards the base."""

THIN = 0.55
"""Share of the wall's area in the next slice below which the most basal slice is reported: in the
experts' masks of ACDC it is that small in 4 of 200 frames."""
ELSEWHERE = 0.5
"""Share of the LV at ES that lies within that at ED below which one of both is reported: in the
experts' masks of ACDC's 100 training patients it is .67 at the least."""


def left_out(labels: np.ndarray, kept: np.ndarray) -> list[str]:
    """Says in words if `cleaned` took away what looks like more of the LV; empty if it did not.

    Example:
        >>> labels = np.ones((4, 4, 5), np.uint8)
        >>> labels[..., 2] = 0  # a black slice between two halves of a heart
        >>> left_out(labels, labels * (np.arange(5) < 2))
        ['a second part that looks like the LV was left out, 100% as large']
    """
    lv = int((kept == Structure.LV).sum())
    lost = int(((labels == Structure.LV) & (kept != Structure.LV)).sum())
    if lost <= LEFT_OUT * lv or not lv:
        return []
    return [f"a second part that looks like the LV was left out, {lost / lv:.0%} as large"]


def border_faults(labels: np.ndarray) -> list[str]:
    """Says in words what of a segmented heart contradicts its anatomy; empty if nothing does.

    The wall must be closed around the LV, the RV must touch it, areas fall from base to apex, and
    no slice of the heart lacks one.

    Example:
        >>> border_faults(np.zeros((8, 8, 2), np.uint8))
        ['no heart was found']
    """
    areas = np.stack([(labels == structure).sum((0, 1)) for structure in HEART])
    if not areas.any():
        return ["no heart was found"]
    faults = [
        f"no {name} was found"
        for name, area in zip(STRUCTURES, areas, strict=True)
        if not area.any()
    ]
    lv, rv = areas[0], areas[2]
    shown = [z for z in range(labels.shape[2]) if lv[z] > LEAST_PIXELS]
    opened = [
        z
        for z in shown
        if not border_share(labels[..., z : z + 1], Structure.LV, Structure.MYO) >= OPEN
    ]
    if len(opened) > 1:  # the most basal slice may cut the outflow tract
        faults.append(f"the wall is open around the LV in {len(opened)} of {len(shown)} slices")
    gaps = [z for z in range(min(shown), max(shown)) if lv[z] == 0] if shown else []
    if gaps:
        faults.append(f"slices within the heart that show no LV: {len(gaps)}")
    apart = [z for z in range(labels.shape[2]) if rv[z] > LEAST_PIXELS and not areas[1][z]]
    if len(apart) > 1:
        faults.append(f"the RV stands alone in {len(apart)} slices")
    sizes = areas.sum(axis=0)
    if len(sizes) > 2 and sizes.min() > ENDLESS * sizes.max():
        faults.append(
            "all slices show nearly as much heart: they are a part of it, or moments of one slice"
        )
    if jumps(sizes):
        faults.append("the area of the heart does not fall from base to apex")
    edges = (labels[[0, -1]] > 0).any() or (labels[:, [0, -1]] > 0).any()
    if edges:
        faults.append("the heart is cut off by the border of the image")
    return faults


def base_faults(labels: np.ndarray) -> list[str]:
    """Says in words if it is unclear whether the most basal slices of labels (X, Y, Z), which show
    little wall, belong to the heart; else empty.

    Example:
        >>> labels = np.zeros((9, 10, 5), np.uint8)
        >>> for z, rows in enumerate((4, 9, 8, 6, 3)):
        ...     labels[:rows, :5, z], labels[:rows, 5:, z] = Structure.MYO, Structure.LV
        >>> base_faults(labels)
        ['the wall is thin at the base: 13% of the LV lies there and may be atrium']
    """
    stack, thin = beyond_base(labels, Structure.MYO, THIN)
    share = shows(stack[..., thin], Structure.LV).sum() / max(1, shows(labels, Structure.LV).sum())
    if not share:
        return []
    return [f"the wall is thin at the base: {share:.0%} of the LV lies there and may be atrium"]


def phase_faults(ed: np.ndarray, es: np.ndarray) -> list[str]:
    """Says in words if the labels of a heart at ED and ES, (X, Y, Z) of the same grid, outline the
    LV in different places; else empty.

    Example:
        >>> ed = np.zeros((8, 8, 2), np.uint8)
        >>> ed[:4], ed[4:] = Structure.LV, Structure.RV
        >>> phase_faults(ed, ed[::-1])
        ['0% of the LV at ES lies within that at ED: one of both is outlined in a wrong place']
    """
    lv = es == Structure.LV
    if ed.shape != es.shape or not lv.any():
        return []
    share = (ed[lv] == Structure.LV).mean()
    if share >= ELSEWHERE:
        return []
    place = "one of both is outlined in a wrong place"
    return [f"{share:.0%} of the LV at ES lies within that at ED: {place}"]


def size_faults(labels: np.ndarray, spacing_mm: tuple[float, ...]) -> list[str]:
    """Says in words if a stack cannot hold a heart, or shows one of impossible size; else empty.

    Args:
        labels: Canonical labels of one frame, (X, Y, Z).
        spacing_mm: Spacing along X, Y and Z.

    Example:
        >>> size_faults(np.ones((40, 40, 1), np.uint8), (1.5, 1.5, 8.0))
        ['the stack covers 8 mm, less than a heart: volumes are those of a part']
        >>> size_faults(np.ones((40, 40, 9), np.uint8), (1.5, 1.5, 8.0))
        []
    """
    covered = labels.shape[2] * spacing_mm[2]
    if labels.shape[2] < 3 and covered < SHORTEST_MM:
        return [
            f"the stack covers {covered:.3g} mm, less than a heart: volumes are those of a part"
        ]
    size = unlikely_size(pixel_counts(labels), spacing_mm)
    return [f"{size}: is the spacing that of the scan?"] if size else []


def jumps(areas: np.ndarray) -> bool:
    """Tells whether areas, one for each slice, rise again on the way from the base, their largest
    half, to the apex.

    Example:
        >>> jumps(np.array([90, 80, 50, 20])), jumps(np.array([90, 40, 80, 20]))
        (False, True)
    """
    shown = areas[areas > 0].astype(float)
    if len(shown) < 3:
        return False
    if shown[: len(shown) // 2].sum() < shown[-(len(shown) // 2) :].sum():
        shown = shown[::-1]
    return bool((shown[2:] > RISE * shown[1:-1]).any())
