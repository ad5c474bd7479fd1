"""Recognises masks and stacks that contradict the anatomy: exchanged labels and mirror images.

Thresholds come from the 102 patients of ACDC and M&Ms at hand.
"""

from __future__ import annotations

from itertools import permutations
from typing import NamedTuple

import numpy as np

from ..heart import count_true, pixel_counts, shows
from ..runtime.messages import counted
from ..schema import HEART, DataError, Structure
from .crop import barycentre
from .images import reordered
from .nifti import Volume
from .spacing import spelled_spacing

LOOSE, CLOSED = 0.7, 0.9
"""Shares of the border of the LV that touch the myocardium: at least .983 in the real masks, and at
most .45 with labels exchanged."""
CLEARLY = 1.2
"""Ratio of the heart's areas at the two ends of a stack above which one is the base."""


CHIRAL = (-4.4, 2.8, 3.8)
"""Weights of what differs between a heart and its mirror image, see `handedness`: a logistic
regression on the masks of ACDC's 100 training patients at ED and ES. Without the patient in
question it is right in 97.5 % of the frames, and in all of the 84 % where it exceeds `SURE`."""
SURE = 2.0
"""Log odds of a handedness above which a frame is taken for the one or the other."""


class Oddity(NamedTuple):
    """Something that is probably wrong with a case."""

    what: str  # the statement, with the mend
    detail: str  # what was found in this case
    problem: bool = False  # whether results would be wrong; otherwise it is only worth a note


EXCHANGED = "labels that look exchanged: correct 'labels' in the manifest, or --mask-labels"
FLIPPED = (
    "mask and image are stored in different orders by their affines: 'match: affine' in the "
    "manifest reorders the mask"
)
MIRRORED = (
    "the stack is a mirror image of the patient by its affine: preprocess --mirror turns all "
    "cases round, --mirror CASE,CASE these"
)

CUT = "heart cut off by the border of the image"
ISLAND = "parts of the mask lie apart from the heart, and areas and volumes count them: remove them"
PHASES_EXCHANGED = "the LV is larger at ES than at ED: ED and ES look exchanged"
GAP = "a slice between slices of a structure lacks it in the mask: volumes are too small"
APART = "image and mask differ in spacing; the image's is used"
SIZE = "the mask has not the size of a heart: compare pixdim and the slices with the scan"
MISPLACED = (
    "the LV is not brighter than its wall: the mask lies elsewhere than the heart, or the scan is "
    "no bright-blood cine"
)
DARKER = 0.75
"""Share of the wall that is darker than the middle of the LV, below which a mask is taken for
misplaced. In 204 masks of real patients it is .84 or more; 20 mm off it is less in 97 % of them. Of
a single slice it may be less."""
FEW = 10
"""Pixels of an LV, at the most in any slice, that say nothing of its size."""
LENGTH_MM, WIDTH_MM = (30, 160), (30, 200)
"""Lengths of an LV, slices times spacing, and widths of a heart, the root of its largest area. In
the 102 patients they are 50 to 110 and 57 to 111 mm."""
UNIT = (
    "pixdim is 1 x 1 x 1 and is used, while the affine has another spacing: write it into pixdim, "
    "image.header.set_zooms((I, J, S))"
)

MIRROR_IMAGE = (
    "the pictures show a mirror image of a heart by its shape: preprocess --mirror turns all "
    "cases round, --mirror CASE,CASE these"
)


def border_share(mask: np.ndarray, inner: Structure, outer: Structure) -> float:
    """Computes which share of the in-plane neighbours of the inner structure belongs to the outer
    one.

    The mask is canonical, (I, J, S). NaN if the inner structure has no neighbour.

    Example:
        >>> mask = np.zeros((5, 5, 1), np.uint8)
        >>> mask[1:4, 1:4], mask[2, 2] = Structure.MYO, Structure.LV
        >>> border_share(mask, Structure.LV, Structure.MYO)
        1.0
        >>> border_share(mask, Structure.MYO, Structure.LV)  # 12 of its neighbours lie outside
        0.0769...
    """
    own = shows(mask, inner)
    near = np.zeros_like(own)
    near[1:] |= own[:-1]
    near[:-1] |= own[1:]
    near[:, 1:] |= own[:, :-1]
    near[:, :-1] |= own[:, 1:]
    border = near & ~own
    pixels, touching = map(count_true, (border, border & shows(mask, outer)))
    return touching / pixels if pixels else float("nan")


def exchanged_labels(mask: np.ndarray) -> str:
    """Says which labels of a canonical mask (I, J, S) look exchanged, because the myocardium
    encloses another one than the LV.

    Example:
        >>> mask = np.zeros((5, 5, 1), np.uint8)
        >>> mask[1:4, 1:4], mask[2, 2] = Structure.MYO, Structure.RV
        >>> exchanged_labels(mask)
        'RV looks like LV, LV looks like RV'
    """
    if border_share(mask, Structure.LV, Structure.MYO) >= LOOSE:
        return ""
    for order in permutations(HEART):
        if border_share(mask, order[0], order[1]) >= CLOSED:
            pairs = [(own, like) for own, like in zip(order, HEART, strict=True) if own != like]
            return ", ".join(f"{own.name} looks like {like.name}" for own, like in pairs)
    return ""


def is_placeholder(volume: Volume) -> bool:
    """Tells whether an affine says nothing of the patient: unit directions, or not pixdim's.

    Example:
        >>> voxels, spacing = np.zeros((4, 4, 2)), (1.5, 1.5, 8.0)
        >>> is_placeholder(Volume(voxels, spacing, np.diag([1.5, 1.5, 8, 1])))
        True
        >>> is_placeholder(Volume(voxels, spacing, np.diag([-1.5, 1.5, -8, 1])))
        False
    """
    axes = volume.affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if not np.allclose(lengths, volume.spacing_mm, rtol=1e-2):
        return True
    directions = axes / lengths
    return any(np.allclose(directions, np.diag([s, s, 1]), atol=1e-3) for s in (1, -1))


def is_mirrored(image: Volume, counts: np.ndarray) -> bool:
    """Tells whether a stack is a mirror image of the patient, by its affine and its base.

    Seen as it is stored, rows along j, a slice shows the heart from the apex. So (i, j, slices) are
    right-handed axes exactly if the slices run from the apex to the base. ``counts`` are the pixels
    of each structure in each slice, (S, 4).

    Example:
        >>> counts = np.array([[0, 90, 60, 99], [0, 60, 50, 50]])  # the base comes first
        >>> affine = np.diag([-1.5, 1.5, -8, 1])
        >>> is_mirrored(Volume(np.zeros((9, 9, 2)), (1.5, 1.5, 8.0), affine), counts)
        True
    """
    sizes = counts[:, HEART].sum(axis=1)
    shown = sizes[sizes > 0]
    if is_placeholder(image) or len(shown) < 2:
        return False
    first, last = shown[0], shown[-1]
    if max(first, last) < CLEARLY * min(first, last):
        return False
    return bool((np.linalg.det(image.affine[:3, :3]) > 0) == (first > last))


def heart_box(labels: np.ndarray) -> tuple[slice, slice]:
    """Finds the rows and columns that the heart takes in any slice of labels (I, J, S).

    Without a heart the box is empty.

    Example:
        >>> labels = np.zeros((9, 9, 2), np.uint8)
        >>> labels[2:4, 5, 0], labels[6, 5, 1] = 1, 3
        >>> heart_box(labels)
        (slice(2, 7, None), slice(5, 6, None))
    """
    plane = labels.max(axis=2)
    i, j = (np.flatnonzero(plane.any(axis=axis)) for axis in (1, 0))
    if not len(i):
        return slice(0, 0), slice(0, 0)
    return slice(int(i[0]), int(i[-1]) + 1), slice(int(j[0]), int(j[-1]) + 1)


def base_first(counts: np.ndarray) -> bool | None:
    """Tells whether the slices of a stack run from the base to the apex; None where it is unclear.
    ``counts`` are the pixels of each structure in each slice, (S, 4).

    Example:
        >>> counts = np.array([[0, 81, 0, 0], [54, 27, 0, 0], [72, 9, 0, 0]])
        >>> base_first(counts), base_first(counts[::-1])
        (True, False)
    """
    sizes = counts[:, HEART].sum(axis=1)
    shown = sizes[sizes > 0]
    half = len(shown) // 2
    first, last = int(shown[:half].sum()), int(shown[len(shown) - half :].sum())
    if max(first, last) < CLEARLY * min(first, last) or not max(first, last):
        return None
    return first > last


def handedness(
    labels: np.ndarray, spacing_mm: tuple[float, ...], counts: np.ndarray | None = None
) -> float:
    """Computes the log odds that a stack of labels (I, J, S) shows a heart and not its mirror
    image.

    From base to apex the direction from LV to RV turns, and at the base the RV reaches further, and
    thins out, on one side. In a mirror image all this is the other way round. The base is found by
    its areas, so that the order of the slices does not matter; seen with columns along i and rows
    along j, patients of ACDC and M&Ms are above 0. ``counts`` are what `pixel_counts` returns,
    where that is known.

    Returns:
        Log odds; 0 where fewer than three slices show LV, MYO and RV, or the base is not clear.

    Example:
        >>> handedness(np.zeros((9, 9, 5), np.uint8), (1.5, 1.5))
        0.0
    """
    counts = pixel_counts(labels) if counts is None else counts
    order = base_first(counts)
    shown = np.flatnonzero((counts[:, HEART] >= 30).all(axis=1))
    if order is None or len(shown) < 3:
        return 0.0
    shown = shown if order else shown[::-1]
    stack = labels.T[shown]  # (n, J, I), as the voxels of a file lie
    rv, lv = shows(stack, Structure.RV), shows(stack, Structure.LV, Structure.MYO)
    rights, lefts = barycentre(np.stack([rv, lv]))[..., ::-1] * spacing_mm[:2]
    ways = rights - lefts
    turn = np.unwrap(np.arctan2(ways[:, 1], ways[:, 0]))

    # in the basal half of the slices: where pixels of the RV lie across the line from LV to RV
    half = len(shown) // 2
    pixels = counts[shown[:half], Structure.RV]
    first = np.cumsum(pixels) - pixels  # of each slice
    normals = ways[:, ::-1] * (-1, 1) / np.linalg.norm(ways, axis=1, keepdims=True)
    by_column, by_row = (
        (np.arange(n) * mm - left[:half, None]) * normal[:half, None]
        for n, mm, left, normal in zip(
            stack.shape[:0:-1], spacing_mm[:2], lefts.T, normals.T, strict=True
        )
    )
    across = (by_column[:, None] + by_row[:, :, None])[rv[:half]]

    def means(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, first) / pixels

    centred = across - np.repeat(means(across), pixels)
    spread = np.sqrt(means(centred**2))
    skews = means(centred * centred**2) / spread**3  # numpy's **3 takes thirty times as long
    reaches = (np.maximum.reduceat(across, first) + np.minimum.reduceat(across, first)) / spread
    return float(np.dot(CHIRAL, (turn[-1] - turn[0], skews.mean(), reaches.mean())))


def missing_slices(counts: np.ndarray) -> str:
    """Says which structures a slice lacks that lies between slices with them; empty if none does.
    ``counts`` are the pixels of each structure in each slice, (S, 4).

    Example:
        >>> missing_slices(np.array([[0, 9, 0, 0], [9, 0, 0, 0], [9, 0, 0, 0], [5, 4, 0, 0]]))
        'LV in 2 slices'
    """
    found = []
    for structure, shown in zip(HEART, (counts[:, HEART] > 0).T, strict=True):
        places = np.flatnonzero(shown)
        lacking = int(places[-1] - places[0]) + 1 - len(places) if len(places) else 0
        if lacking:
            found.append(f"{structure.name} in {counted(lacking, 'slice')}")
    return ", ".join(found)


def unlikely_size(counts: np.ndarray, spacing_mm: tuple[float, ...]) -> str:
    """Says how large a heart is that cannot be so small or large; empty if it can. ``counts`` are
    the pixels of each structure in each slice, (S, 4); a single slice tells no length.

    Example:
        >>> counts = np.array([[0, 1600, 0, 0]] * 9)
        >>> unlikely_size(counts, (1.5, 1.5, 8.0))
        ''
        >>> unlikely_size(counts, (1.0, 1.0, 1.0))  # a header that lost its spacing
        'an LV of 9 mm length in a heart of 40 mm width'
        >>> unlikely_size(counts[:1], (1.5, 1.5, 8.0)), unlikely_size(counts[:1], (0.5, 0.5, 8.0))
        ('', 'a heart of 20 mm width')
    """
    across, down, through = spacing_mm
    lv = counts[:, Structure.LV]
    length = int((lv > 0).sum()) * through
    width = float(np.sqrt(counts[:, HEART].sum(axis=1).max(initial=0) * across * down))
    sizes = [
        (f"an LV of {length:.3g} mm length", length, LENGTH_MM),
        (f"a heart of {width:.3g} mm width", width, WIDTH_MM),
    ][len(lv) == 1 :]
    if lv.max(initial=0) <= FEW or all(low <= size <= high for _, size, (low, high) in sizes):
        return ""
    return " in ".join(said for said, *_ in sizes)


def darker_wall(voxels: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share of the wall that is darker than half of the LV, of a frame and its
    canonical labels, (I, J, S) both; NaN without wall, or with an LV in under three slices.

    Example:
        >>> labels = np.array([[[Structure.LV] * 3, [Structure.MYO] * 3]])
        >>> round(darker_wall(np.array([[[9, 9, 9], [2, 3, 12]]]), labels), 2)
        0.67
    """
    lv, wall = labels == Structure.LV, labels == Structure.MYO
    if not wall.any() or lv.any(axis=(0, 1)).sum() < 3:
        return float("nan")
    return float((voxels[wall] < np.median(voxels[lv])).mean())


def is_flipped(image: Volume, mask: Volume) -> bool:
    """Tells whether the affines of a mask and its image say that their voxels differ in order.

    Example:
        >>> image = Volume(np.zeros((3, 3, 1)), (1.0, 1.0, 8.0), np.diag([1.0, 1, 8, 1]))
        >>> flipped = np.diag([-1.0, 1, 8, 1])
        >>> flipped[0, 3] = 2
        >>> is_flipped(image, image._replace(affine=flipped))
        True
    """
    same = np.array_equal(image.affine, mask.affine)  # saves most cases the rest
    if same or np.allclose(image.affine, mask.affine, atol=0.1):
        return False
    numbered = mask._replace(voxels=np.arange(mask.voxels.size).reshape(mask.voxels.shape))
    try:
        return not np.array_equal(reordered(image, numbered).voxels, numbered.voxels)
    except DataError:  # they are not the same voxels
        return False


def island(labels: np.ndarray) -> int:
    """Counts labelled voxels, of (I, J, S), that lie apart from the heart as seen along S. In 204
    masks of real patients there is none.

    Example:
        >>> labels = np.zeros((9, 9, 2), np.uint8)
        >>> labels[1:4, 1:4], labels[7, 7, 0] = Structure.LV, Structure.RV
        >>> island(labels)
        1
    """
    from scipy.ndimage import label

    parts, count = label(labels.any(axis=2), np.ones((3, 3)))
    if count < 2:
        return 0
    sizes = np.bincount(np.broadcast_to(parts[..., None], labels.shape)[labels > 0])
    return int(sizes.sum() - sizes.max(initial=0))


def oddities(
    image: Volume,
    mask: Volume,
    labels: np.ndarray,
    matched: bool,
    box: tuple[slice, slice] | None = None,
    counts: np.ndarray | None = None,
) -> list[Oddity]:
    """Lists what is probably wrong with a case, of image and mask as they are stored.

    ``labels`` are canonical, in the order of the image, (I, J, S); ``matched`` says whether the
    mask was reordered by the affines; ``box`` and ``counts`` are what `heart_box` and
    `pixel_counts` return, where that is known.

    Example:
        >>> labels = np.zeros((5, 5, 1), np.uint8)
        >>> labels[1:4, 1:4], labels[2, 2] = Structure.MYO, Structure.RV
        >>> volume = Volume(labels, (1.5, 1.5, 8.0), np.diag([1.5, 1.5, 8, 1]))
        >>> for oddity in oddities(volume, volume, labels, matched=False):
        ...     print(oddity.what)
        labels that look exchanged: correct 'labels' in the manifest, or --mask-labels
    """
    i, j = box or heart_box(labels)
    near = slice(max(i.start - 1, 0), i.stop + 1), slice(max(j.start - 1, 0), j.stop + 1)
    heart = labels[near].copy(order="K")  # in one piece, which numpy is fast with
    counts, found = pixel_counts(heart) if counts is None else counts, []
    if exchanged := exchanged_labels(heart):
        found.append(Oddity(EXCHANGED, exchanged, problem=True))
    elif (share := darker_wall(image.voxels[near], heart)) < DARKER:
        found.append(Oddity(MISPLACED, f"{share:.0%} of the wall is darker"))
    if not matched and is_flipped(image, mask):
        found.append(Oddity(FLIPPED, ""))
    if is_mirrored(image, counts):
        found.append(Oddity(MIRRORED, ""))
    if (odds := handedness(heart, image.spacing_mm, counts)) < -SURE:
        found.append(Oddity(MIRROR_IMAGE, f"log odds {odds:.1f}"))
    if labels[[0, -1]].any() or labels[:, [0, -1]].any():
        found.append(Oddity(CUT, ""))
    if apart := island(heart):
        found.append(Oddity(ISLAND, f"{apart} voxels"))
    if lacking := missing_slices(counts):
        found.append(Oddity(GAP, lacking))
    order = sorted if matched else tuple
    own, other = (list(order(volume.spacing_mm)) for volume in (image, mask))
    if own != other and not np.allclose(own, other, rtol=1e-3):
        sizes = f"{spelled_spacing(image.spacing_mm)} and {spelled_spacing(mask.spacing_mm)}"
        found.append(Oddity(APART, sizes))
    lengths = np.linalg.norm(image.affine[:3, :3], axis=0)
    if image.spacing_mm == (1.0, 1.0, 1.0) and not np.allclose(lengths, 1, rtol=1e-2):
        found.append(Oddity(UNIT, spelled_spacing(lengths), problem=True))
    elif size := unlikely_size(counts, image.spacing_mm):
        found.append(Oddity(SIZE, size))
    return found
