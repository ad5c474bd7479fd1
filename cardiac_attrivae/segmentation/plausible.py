"""What a heart looks like: cleans predicted labels, and says in words where they are no heart."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ..data.anatomy import base_first, border_share, unlikely_size
from ..heart import pixel_counts
from ..schema import HEART, STRUCTURES, Structure

LEAST_PIXELS = 10
"""Pixels of a structure in a slice below which its shape says nothing."""
OPEN = 0.8
"""Share of the LV's border that is wall, below which a slice counts as open."""
ATRIUM = 0.6
"""Share of the RV's area in the next slice below which its most basal one is taken for atrium: in
the experts' masks of 80 patients of ACDC at ED and ES it is that small in 2 of 160 frames."""
SLIVER = 0.3
"""Share of the wall's area in the next slice below which the most basal one is taken to lie beyond
the ventricles: in no expert's mask of the 200 training frames of ACDC the wall is that small."""
LEFT_OUT = 0.05
"""Share of the LV above which another part is reported that is not connected with it."""
SHORTEST_MM = 50
"""What a stack must cover to hold a heart: the LV of 102 patients is 50 to 110 mm long."""
ENDLESS = 0.45
"""Ratio of the smallest to the largest area of the heart in a stack above which it ends nowhere:
in 200 frames of ACDC it is .38 at the most."""
RISE = 1.3
"""Ratio by which an area may exceed that of the next slice towards the base."""

_IN_PLANE = ndimage.generate_binary_structure(3, 1)
_IN_PLANE[:, :, [0, 2]] = False


def cleaned(labels: np.ndarray) -> np.ndarray:
    """Keeps one heart of predicted labels (X, Y, Z), without holes, its RV in one place.

    Example:
        >>> labels = np.zeros((9, 9, 1), np.uint8)
        >>> labels[1:6, 1:6], labels[2:5, 2:5], labels[8, 8] = Structure.MYO, Structure.LV, 3
        >>> labels[3, 3] = 0  # a hole in the cavity, and a speck far away
        >>> kept = cleaned(labels)
        >>> int(kept[3, 3, 0]), int(kept[8, 8, 0])
        (1, 0)
    """
    heart = _largest(labels > 0)
    left = _largest(heart & ((labels == Structure.LV) | (labels == Structure.MYO)))
    right = _largest(heart & (labels == Structure.RV))
    kept = np.where(left | right, labels, 0).astype(np.uint8)
    for structure, region in ((Structure.LV, kept == Structure.LV), (Structure.MYO, left)):
        for z in range(labels.shape[2]):
            holes = ndimage.binary_fill_holes(region[..., z]) & (kept[..., z] == 0)
            kept[holes, z] = structure
    return unbroken(kept)


def below_base(labels: np.ndarray) -> np.ndarray:
    """Removes from labels (X, Y, Z) what lies beyond the base: `without_slivers`, then
    `without_atrium`."""
    return without_atrium(without_slivers(labels))


def unbroken(labels: np.ndarray) -> np.ndarray:
    """Removes LV and wall from slices that lie beyond a slice without LV: no expert's mask of
    ACDC's 200 training frames has such a gap. The run of slices with most LV is kept.

    Args:
        labels: Canonical labels, (X, Y, Z).

    Returns:
        Labels, (X, Y, Z) uint8.

    Example:
        >>> labels = np.zeros((9, 9, 5), np.uint8)
        >>> labels[2:7, 2:7], labels[3:6, 3:6] = Structure.MYO, Structure.LV
        >>> labels[3:6, 3:6, 3] = Structure.MYO  # the cavity ends, and appears again below the apex
        >>> (unbroken(labels) > 0).sum((0, 1)).tolist()
        [25, 25, 25, 25, 0]
    """
    kept, areas = labels.copy(), (labels == Structure.LV).sum((0, 1))
    runs, count = ndimage.label(areas > 0)
    if count > 1:
        main = np.bincount(runs, areas)[1:].argmax() + 1
        beyond = kept[..., (areas > 0) & (runs != main)]
        beyond[beyond != Structure.RV] = Structure.BACKGROUND
        kept[..., (areas > 0) & (runs != main)] = beyond
    return kept


def without_slivers(labels: np.ndarray) -> np.ndarray:
    """Removes slices at the base that show only a sliver of the wall: they lie beyond the
    ventricles. Where the base is unclear, or under three slices show wall, nothing is removed.

    Args:
        labels: Canonical labels, (X, Y, Z).

    Returns:
        Labels, (X, Y, Z) uint8.

    Example:
        >>> labels = np.zeros((9, 9, 5), np.uint8)
        >>> for z, rows in enumerate((2, 9, 8, 6, 3)):
        ...     labels[:rows, :5, z], labels[:rows, 5:, z] = Structure.MYO, Structure.LV
        >>> (without_slivers(labels) > 0).sum((0, 1)).tolist()
        [0, 81, 72, 54, 27]
    """
    kept = labels.copy()
    stack, beyond = _beyond_base(kept, Structure.MYO, SLIVER)
    if beyond:
        stack[..., : beyond[-1] + 1] = Structure.BACKGROUND
    return kept


def without_atrium(labels: np.ndarray) -> np.ndarray:
    """Removes the RV from slices at the base where it is far smaller than in the next one.

    The base moves towards the apex in systole, and the most basal slice then shows the atrium, of
    which a part looks like RV. Where the base is unclear, or under three slices show RV, nothing is
    removed.

    Args:
        labels: Canonical labels, (X, Y, Z).

    Returns:
        Labels, (X, Y, Z) uint8.

    Example:
        >>> labels = np.zeros((9, 9, 5), np.uint8)
        >>> for z, rows in enumerate((3, 9, 8, 6, 3)):
        ...     labels[:rows, :5, z], labels[:rows, 5:, z] = Structure.RV, Structure.LV
        >>> (without_atrium(labels) == Structure.RV).sum((0, 1)).tolist()
        [0, 45, 40, 30, 15]
    """
    kept = labels.copy()
    stack, beyond = _beyond_base(kept, Structure.RV, ATRIUM)
    for z in beyond:
        base = stack[..., z]
        base[base == Structure.RV] = Structure.BACKGROUND
    return kept


def _beyond_base(
    labels: np.ndarray, structure: Structure, share: float
) -> tuple[np.ndarray, list[int]]:
    """Views labels (X, Y, Z) from base to apex; with the slices at the base in which a structure is
    smaller than a share of its size in the next one, none where the base is unclear."""
    counts = pixel_counts(labels)
    order = base_first(counts)
    if order is None:
        return labels, []
    stack, counts = (labels, counts) if order else (labels[..., ::-1], counts[::-1])
    areas, beyond = counts[:, structure], []
    shown = np.flatnonzero(areas).tolist()
    while len(shown) > 2 and areas[shown[0]] < share * areas[shown[1]]:
        beyond.append(shown.pop(0))
    return stack, beyond


def _largest(region: np.ndarray) -> np.ndarray:
    """Keeps the largest part of a region, (X, Y, Z); parts of two slices touch where they overlap
    or are neighbours, because a heart moves between breath-holds."""
    wide = ndimage.binary_dilation(region, _IN_PLANE)
    parts, count = ndimage.label(wide)
    if count < 2:
        return region
    sizes = np.bincount(parts[region], minlength=count + 1)
    sizes[0] = 0
    return region & (parts == sizes.argmax())


def left_out(labels: np.ndarray, kept: np.ndarray) -> list[str]:
    """Says in words if `cleaned` removed what looks like more of the heart; empty if it did not.

    Example:
        >>> labels = np.ones((4, 4, 5), np.uint8)
        >>> labels[..., 2] = 0  # a black slice between two halves of a heart
        >>> left_out(labels, cleaned(labels))
        ['a second part that looks like the LV was left out, 100% as large']
    """
    lv = int((kept == Structure.LV).sum())
    lost = int(((labels == Structure.LV) & (kept == 0)).sum())
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
