"""Cleans predicted labels: one heart, one LV in every slice, an end at the base."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ..data.anatomy import base_first
from ..heart import pixel_counts
from ..schema import Structure

ATRIUM = 0.6
"""Share of the RV's area in the next slice below which its most basal one is taken for atrium: in
the experts' masks of 80 patients of ACDC at ED and ES it is that small in 2 of 160 frames."""
SLIVER = 0.3
"""Share of the wall's area in the next slice below which the most basal one is taken to lie beyond
the ventricles: in no expert's mask of the 200 training frames of ACDC the wall is that small."""
UNSURE = 0.8
"""Mean probability of the RV where it is outlined below which its most basal slice is removed. In
four of 80 frames of ACDC it was so low, and the expert drew no RV there in any of them."""
NARROW = 0.5
"""Share of its largest area below which the LV is taken to come to its end."""
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
    labels = one_cavity(np.where(heart, labels, 0).astype(np.uint8))
    left = _largest(heart & ((labels == Structure.LV) | (labels == Structure.MYO)))
    right = _largest(heart & (labels == Structure.RV))
    kept = np.where(left | right, labels, 0).astype(np.uint8)
    for structure, region in ((Structure.LV, kept == Structure.LV), (Structure.MYO, left)):
        for z in range(labels.shape[2]):
            holes = ndimage.binary_fill_holes(region[..., z]) & (kept[..., z] == 0)
            kept[holes, z] = structure
    return unbroken(kept)


class _Cavity(NamedTuple):
    """A part of what is labelled LV, connected from slice to slice. They compare by how much they
    look like the LV."""

    length: int  # in slices
    off_rv: float  # share of the heart in the slices before and after it that is not RV there
    size: int  # voxels
    number: int  # of the part, from 1
    slices: range
    in_rv: bool  # whether the next slice towards the base shows RV in its place


def one_cavity(labels: np.ndarray) -> np.ndarray:
    """Takes from the LV what continues the RV: the LV is one column from base to apex, and in none
    of 200 masks of experts does a part that stands alone lie over the RV of the next slices.

    A thick-walled RV, or the outflow tract at the base, look like an LV in a single slice. The
    column in most slices is the LV. Another part that lies over the RV is RV where it continues it
    towards the apex, and nothing at the base; its wall is removed.

    Args:
        labels: Canonical labels, (X, Y, Z) uint8.

    Returns:
        Labels, (X, Y, Z) uint8.

    Example:
        >>> labels = np.zeros((9, 4, 6), np.uint8)
        >>> for z, rows in enumerate((4, 4, 4, 3, 3, 2)):
        ...     labels[:3, :, z], labels[4 : 4 + rows, :, z] = Structure.LV, Structure.RV
        >>> labels[4:, :, 2] = Structure.LV  # in one slice, the RV is taken for another LV
        >>> one_cavity(labels)[:, 0, 2].tolist()
        [1, 1, 1, 0, 3, 3, 3, 3, 3]
    """
    parts, count = ndimage.label(labels == Structure.LV)
    if count < 2:
        return labels
    first = base_first(pixel_counts(labels))
    *others, column = sorted(
        _cavity(labels[box[:2]], parts[box] == number, box, number, first)
        for number, box in enumerate(ndimage.find_objects(parts), 1)
    )
    kept, lv = labels.copy(), parts == column.number
    for cavity in others:
        # a slice in the middle without the column has other faults, which would become worse
        apart = [z for z in cavity.slices if z not in column.slices]
        at_apex = all((z > column.slices[0]) == first for z in apart)
        if cavity.off_rv < 0.5 and at_apex:
            for z in cavity.slices:
                own, plane = parts[..., z] == cavity.number, kept[..., z]
                plane[own] = Structure.RV if cavity.in_rv else Structure.BACKGROUND
                plane[_wall_of(own, plane == Structure.MYO, lv[..., z])] = Structure.BACKGROUND
    return kept


def _cavity(
    labels: np.ndarray, own: np.ndarray, box: tuple[slice, ...], number: int, first: bool | None
) -> _Cavity:
    """Compares a part of the LV, ``own`` in its ``box``, with the slices before and after it.
    ``labels`` are those of the box in all slices, ``first`` is what `base_first` says."""
    start, stop = box[2].start, box[2].stop
    shown = [
        labels[..., z][edge] if 0 <= z < labels.shape[2] else labels[:0]
        for z, edge in ((start - 1, own[..., 0]), (stop, own[..., -1]))
    ]
    heart = np.array([np.count_nonzero(pixels) for pixels in shown])
    right = np.array([np.count_nonzero(pixels == Structure.RV) for pixels in shown])
    before, after = (right > heart / 2).tolist()
    in_rv = {True: before, False: after, None: before and after}[first]
    off_rv = 1 - right.sum() / max(1, heart.sum())
    return _Cavity(stop - start, off_rv, int(own.sum()), number, range(start, stop), in_rv)


def _wall_of(cavity: np.ndarray, wall: np.ndarray, lv: np.ndarray) -> np.ndarray:
    """Finds the wall about another cavity: what is further from the LV than the wall gets on the
    sides of the LV that face away. All are truth values, (X, Y)."""
    if not lv.any():
        return wall
    from_lv, from_cavity = map(ndimage.distance_transform_edt, (~lv, ~cavity))
    thickness = from_lv[wall & (from_lv < from_cavity)].max(initial=0)
    return wall & (from_lv > thickness)


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


def below_base(labels: np.ndarray) -> np.ndarray:
    """Removes from labels (X, Y, Z) what lies beyond the base: `without_slivers`, then
    `without_atrium`."""
    return without_atrium(without_slivers(labels))


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
    stack, beyond = beyond_base(kept, Structure.MYO, SLIVER)
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
    stack, beyond = beyond_base(kept, Structure.RV, ATRIUM)
    for z in beyond:
        base = stack[..., z]
        base[base == Structure.RV] = Structure.BACKGROUND
    return kept


def without_false_apex(labels: np.ndarray) -> np.ndarray:
    """Makes wall of the LV in the most apical slice where it is larger than in the next one, and
    the LV has become narrow there: under half of its largest area.

    Where the LV is closed at ES, its most apical slice is muscle alone, which beside fat looks like
    a dim cavity. In 200 masks of experts the last LV has at most .86 of the area before it. An LV
    that is as wide as ever where the stack ends has no apex in it, and is left as it is; so is one
    whose base is unclear, or that under three slices show.

    Args:
        labels: Canonical labels, (X, Y, Z).

    Returns:
        Labels, (X, Y, Z) uint8.

    Example:
        >>> labels = np.zeros((9, 9, 5), np.uint8)
        >>> for z, rows in enumerate((7, 6, 4, 2, 4)):
        ...     labels[: 9 - z, :, z], labels[:rows, 2:7, z] = Structure.MYO, Structure.LV
        >>> (without_false_apex(labels) == Structure.LV).sum((0, 1)).tolist()
        [35, 30, 20, 10, 0]
    """
    kept, counts = labels.copy(), pixel_counts(labels)
    shown, areas = _from_base(counts, Structure.LV), counts[:, Structure.LV]
    if len(shown) > 2:
        before, end = areas[shown[-2:]]
        if end > before and before < NARROW * areas.max():
            last = kept[..., shown[-1]]
            last[last == Structure.LV] = Structure.MYO
    return kept


def without_doubtful_rv(labels: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Removes the RV from slices at the base where it is outlined without conviction: it is atrium
    or outflow tract, or it cannot be told. Where the base is unclear, or under three slices show
    RV, nothing is removed.

    Args:
        labels: Canonical labels, (X, Y, Z).
        probability: Probability of the RV, (X, Y, Z).

    Returns:
        Labels, (X, Y, Z) uint8.

    Example:
        >>> labels = np.zeros((9, 9, 4), np.uint8)
        >>> for z, rows in enumerate((9, 9, 8, 6)):
        ...     labels[:rows, :5, z], labels[:rows, 5:, z] = Structure.RV, Structure.LV
        >>> sure = np.full(labels.shape, (0.7, 0.95, 0.9, 0.7))
        >>> (without_doubtful_rv(labels, sure) == Structure.RV).sum((0, 1)).tolist()
        [0, 45, 40, 30]
    """
    kept, rv = labels.copy(), labels == Structure.RV
    shown = _from_base(pixel_counts(labels), Structure.RV)
    while len(shown) > 2 and probability[..., shown[0]][rv[..., shown[0]]].mean() < UNSURE:
        z = shown.pop(0)
        kept[rv[..., z], z] = Structure.BACKGROUND
    return kept


def beyond_base(
    labels: np.ndarray, structure: Structure, share: float
) -> tuple[np.ndarray, list[int]]:
    """Views labels (X, Y, Z) from base to apex, and lists the slices at the base in which a
    structure is smaller than a share of its size in the next one, none where the base is unclear.
    """
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


def _from_base(counts: np.ndarray, structure: Structure) -> list[int]:
    """Lists the slices that show a structure, from base to apex; none where the base is unclear.
    ``counts`` are the pixels of each structure in each slice, (Z, 4)."""
    order = base_first(counts)
    shown = np.flatnonzero(counts[:, structure]).tolist()
    return {True: shown, False: shown[::-1], None: []}[order]


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
