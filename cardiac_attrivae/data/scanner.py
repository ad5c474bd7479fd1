"""Draws scans of analytic hearts: pictures and masks as a scanner of some vendor takes them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from scipy.ndimage import gaussian_filter, map_coordinates, zoom

from .hearts import POPULATIONS, Heart, draw_heart


class Scanner(NamedTuple):
    """Look of a vendor's pictures: signals and noise relative to ``full_scale``.

    Spacings are those of the real data; the contrast of each vendor is exaggerated, so that a
    network trained on A and B meets different pictures in C and D.
    """

    vendor: str
    centres: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    blood: float
    muscle: float
    fat: float
    lung: float
    noise: float
    blur_mm: float
    full_scale: float


SCANNERS = {
    "A": Scanner("Siemens", (1,), (1.2, 1.33, 1.4), 0.80, 0.22, 0.85, 0.05, 0.020, 0.8, 600),
    "B": Scanner("Philips", (2, 3), (1.18, 1.18, 1.25), 0.95, 0.36, 0.65, 0.03, 0.030, 0.7, 320),
    "C": Scanner("GE", (4,), (0.75, 0.78, 0.82), 0.72, 0.30, 1.00, 0.09, 0.050, 1.0, 1900),
    "D": Scanner("Canon", (5,), (1.4, 1.5, 1.6), 0.62, 0.31, 0.80, 0.10, 0.065, 1.3, 9000),
}
ACDC_SCANNER = SCANNERS["A"]._replace(spacing_mm=(0.7, 1.37, 1.37, 1.5, 1.56, 1.56, 1.68, 1.95))

# Trabeculae reach from the wall into both cavities, by so much (a gamma distribution) at so many
# angles and every so many mm of depth. Set from how bright the pictures of the 100 patients of ACDC
# are on either side of experts' outlines (benchmarks/borders.py), and from nothing else.
REACH_MM, REACH_SHAPE = 3.0, 0.2
STRANDS, STRAND_MM = (48, 10), 3.0


@dataclass(frozen=True)
class Scan:
    """A heart in a scanner: everything that determines the pictures and masks of one case."""

    case: str
    pathology: str
    heart: Heart  # at end diastole
    lvef: float
    rvef: float
    scanner: Scanner
    shape: tuple[int, int]
    spacing_mm: tuple[float, float, float]
    angle: float  # of the clinical x axis in the voxel axes (i, j); never a mirror image
    centre_mm: tuple[float, float]  # of the picture, in the frame of the heart
    z_mm: tuple[float, ...]  # slice centres in the order of the file
    frames: int
    ed: int
    es: int
    key: int  # of the noise

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns x and y in mm of every voxel of a slice, both (H, W) indexed (i, j)."""
        u, v = np.indices(self.shape, dtype=np.float32)
        u = (u - (self.shape[0] - 1) / 2) * self.spacing_mm[0]
        v = (v - (self.shape[1] - 1) / 2) * self.spacing_mm[1]
        c, s = np.cos(self.angle), np.sin(self.angle)
        return c * u + s * v + self.centre_mm[0], c * v - s * u + self.centre_mm[1]

    def heart_at(self, frame: int) -> Heart:
        """The heart in a 0-based frame: sin^2 from ED to ES, cos^2 back."""
        phase, systole = (frame - self.ed) % self.frames, (self.es - self.ed) % self.frames
        if phase > systole:
            phase, systole = self.frames - phase, self.frames - systole
        return self.heart.contracted(np.sin(np.pi / 2 * phase / systole) ** 2, self.lvef, self.rvef)

    def mask(self, frame: int) -> np.ndarray:
        """Canonical labels of a frame at voxel centres, (H, W, slices)."""
        heart, (x, y) = self.heart_at(frame), self.grid()
        return np.stack([heart.labels(x, y, z) for z in self.z_mm], axis=-1)


def pictures(scan: Scan, frames: list[int]) -> np.ndarray:
    """Renders frames of a scan, int16 (H, W, slices, frames).

    A frame is the same whatever other frames are rendered with it.

    Example:
        >>> scan = draw_scan("acdc", "patient001", "NOR", ACDC_SCANNER, frames=12, seed=0)
        >>> pictures(replace(scan, z_mm=(15.0,)), [scan.ed, scan.es]).shape == (*scan.shape, 1, 2)
        True
    """
    scanner, (x, y) = scan.scanner, scan.grid()
    rng = np.random.default_rng([scan.key, 0])
    # The coil lies on the chest: signal falls away from it.
    gain = scanner.full_scale * np.exp(-0.0035 * (0.74 * x + 0.67 * y) + rng.normal(0, 0.001) * x)
    blur = scanner.blur_mm / scan.spacing_mm[0]
    psi, r = np.arctan2(-y, -x), np.hypot(x, y)
    # Only the box around the heart moves: what lies outside it is rendered once.
    moving = r < scan.heart.boundaries(psi, 0.0)[2] + 14
    box = tuple(
        slice(np.flatnonzero(hit)[0], np.flatnonzero(hit)[-1] + 1)
        for hit in (moving.any(1), moving.any(0))
    )
    output = np.empty((*scan.shape, len(scan.z_mm), len(frames)), dtype=np.int16)
    for k, z in enumerate(scan.z_mm):
        fine, coarse = _texture(rng, scan.shape, 3), _texture(rng, scan.shape, 14)
        strands = _strands(scan, k)
        still = _surroundings(scan, x, y, z, fine, coarse)
        clean = gaussian_filter(still, blur)
        for n, frame in enumerate(frames):
            heart = scan.heart_at(frame)
            # A trabecula keeps its section while the border that it stands on grows shorter.
            crowded = float(np.sqrt(scan.heart.volumes_mL[0] / heart.volumes_mL[0]))
            # A slice is thick: average over its depth.
            layers = [
                _paint_heart(
                    scanner, heart, still[box], r[box], psi[box], z + side * scan.spacing_mm[2] / 4,
                    fine[box], coarse[box], crowded * layer,
                )
                for side, layer in zip((-1, 1), strands, strict=True)
            ]  # fmt: skip
            clean[box] = gaussian_filter((layers[0] + layers[1]) / 2, blur)
            of_slice = np.random.default_rng([scan.key, 1, frame, k])
            noise = of_slice.standard_normal((2, *scan.shape), dtype=np.float32)
            noise *= scanner.full_scale * scanner.noise  # of both channels: Rician in the magnitude
            output[:, :, k, n] = np.hypot(clean * gain + noise[0], noise[1])
    return output


def _over(
    picture: np.ndarray, depth_mm: np.ndarray, signal: float | np.ndarray, edge_mm: float = 1.5
) -> np.ndarray:
    """Lays ``signal`` over a picture where ``depth_mm`` is positive; the edge is partial volume."""
    return picture + np.clip(depth_mm / edge_mm + 0.5, 0, 1) * (signal - picture)


def _texture(rng: Generator, shape: tuple[int, int], grain: int) -> np.ndarray:
    """A smooth random field of about unit variance, (H, W), details of ``grain`` pixels."""
    coarse = rng.standard_normal((shape[0] // grain + 2, shape[1] // grain + 2), dtype=np.float32)
    return 1.5 * zoom(coarse, grain, order=1)[: shape[0], : shape[1]]


def _strands(scan: Scan, k: int) -> np.ndarray:
    """Draws how far trabeculae reach into the cavities, in mm, for two layers of slice ``k``,
    (2, angles, depths)."""
    rng = np.random.default_rng([scan.key, 3, k])
    return rng.gamma(REACH_SHAPE, REACH_MM / REACH_SHAPE, (2, *STRANDS))


def _fill(
    picture: np.ndarray,
    depth_mm: np.ndarray,
    blood: np.ndarray,
    psi: np.ndarray,
    strands: np.ndarray,
) -> np.ndarray:
    """Fills a cavity with blood where no trabecula reaches; ``depth_mm`` is that below its wall."""
    place = psi / (2 * np.pi) * STRANDS[0], np.maximum(depth_mm, 0) / STRAND_MM
    reach = map_coordinates(strands, place, order=1, mode="grid-wrap")
    return _over(picture, depth_mm - reach, blood)


def _surroundings(
    scan: Scan, x: np.ndarray, y: np.ndarray, z: float, fine: np.ndarray, coarse: np.ndarray
) -> np.ndarray:
    """Chest wall, lungs, diaphragm and what is below: signal (H, W) of a slice without its heart.

    Placed as in real short-axis slices: sternum up and left, spine down and right, liver and
    stomach below, closer to the heart in apical slices.
    """
    s, reach = scan.scanner, float(np.cbrt(sum(scan.heart.volumes_mL) / 374))
    muscle = s.muscle * (1 + 0.12 * fine)
    behind, left = 0.74 * x + 0.67 * y, 0.67 * x - 0.74 * y  # patient axes, mm
    chest = np.hypot((behind - 46 - 0.3 * z) / (120 * reach), (left + 30) / (175 * reach))
    chest = 120 * reach * (1 - chest) + 2 * coarse
    body = np.full(scan.shape, 0.01, dtype=np.float32)
    body = _over(body, chest + 14 + 8 * np.sin(left / 40 + z / 30), s.fat * (0.9 + 0.05 * fine))
    body = _over(body, chest, muscle + 0.4 * s.fat * np.clip(np.sin(left / 11) + 0.2 * fine, 0, 1))
    chest -= 12
    body = _over(body, chest, s.lung * (1 + 0.3 * fine))
    body = _over(body, np.minimum(chest - 10, 1.5 * (fine - 2.6)), 0.6 * s.blood)  # lung vessels
    body = _over(body, 24 - np.hypot(behind - 112, left + 22), 1.3 * muscle, 4)  # spine
    body = _over(body, 11 - np.hypot(behind - 80, left - 4), s.blood)  # descending aorta
    dome = 42 * reach - 0.28 * z
    liver = 62 * (1 - np.hypot((x + 50) / 95, (y - dome - 62) / 66)) + 1.5 * coarse
    body = _over(body, np.minimum(liver + 2, chest), 0.6 * s.fat, 3)
    body = _over(body, np.minimum(liver, chest), 1.05 * muscle, 2)
    body = _over(body, np.minimum(liver - 8, 4 * (coarse - 1.9)), 0.7 * s.blood, 3)  # its vessels
    stomach = 34 * (1 - np.hypot((x - 34) / 42, (y - dome - 52 + 0.2 * z) / 34)) + coarse
    body = _over(body, np.minimum(stomach, chest), 0.8 * s.fat, 3)
    body = _over(body, np.minimum(stomach - 5, chest), 1.5 * muscle * (1 + 0.2 * coarse), 3)
    if z < 0:  # above the base lie the atria, the root of the aorta and the outflow of the RV
        for a, b, radius in ((6, 8, 25), (-48, 12, 24), (-20, -20, 14), (-42, -34, 15)):
            depth = radius * reach - np.hypot(x - a, y - b)
            body = _over(_over(body, depth + 3, muscle), depth, s.blood * (1 + 0.04 * fine))
    return body


def _paint_heart(
    s: Scanner,
    heart: Heart,
    body: np.ndarray,
    r: np.ndarray,
    psi: np.ndarray,
    z: float,
    fine: np.ndarray,
    coarse: np.ndarray,
    strands: np.ndarray,
) -> np.ndarray:
    """Signal of a slice with the heart laid over its surroundings, (H, W)."""
    tip = heart.lengths_mm[1]
    if z < 0:
        return body
    if z > tip:  # the fat pad under the apex
        return _over(body, 12 - 0.8 * (z - tip) - r, 0.7 * s.fat, 5)
    endo, epi, free_wall = heart.boundaries(psi, z)
    wall = 2.5 * np.clip((free_wall - epi) / 6, 0, 1)  # the thin one of the RV: not contoured
    fat = wall + 7 * np.clip(np.cos(psi / 1.6) + 0.3 * coarse + 0.5 * z / tip - 0.8, 0, 1)
    blood = s.blood * (1 + 0.05 * fine)
    rough = 0.5 * (s.blood + s.muscle)  # more of the RV's trabeculae: cavity, but not pure blood
    body = _over(body, free_wall + fat - r, 0.8 * s.fat, 3)
    body = _over(body, free_wall + wall - r, s.muscle)
    smooth = 2 * (r - epi)  # the septum has half of the trabeculae
    body = _fill(body, np.minimum(free_wall - r, smooth), blood, psi, strands)
    body = _over(body, np.minimum(free_wall - r, 3 * (fine - 2.4 + 1.2 * z / tip)), rough, 3)
    body = _over(body, epi - r, s.muscle * (1 + 0.06 * fine))
    body = _fill(body, endo - r, blood, psi, strands)
    radius = 10 * float(np.sqrt(heart.areas(z)[0] / np.pi))
    for angle in (2.3, -2.0):  # anterolateral and posteromedial papillary muscles
        middle = 0.62 * radius
        distance = np.sqrt(r**2 + middle**2 - 2 * r * middle * np.cos(psi - angle))
        size = 0.25 * radius * np.sin(np.pi * min(max((z / tip - 0.1) / 0.7, 0), 1))
        body = _over(body, np.minimum(size - distance + 0.8 * fine, endo - r), s.muscle)
    return body


def _key(*parts: object) -> int:
    """Makes a seed from ``parts`` alone: the same on every machine, in every version of Python."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big")


def draw_scan(
    dataset: str, case: str, pathology: str, scanner: Scanner, frames: int, seed: int
) -> Scan:
    """Draws everything about one case from (dataset, case, seed) alone.

    Example:
        >>> scan = draw_scan("mnms", "A1B2C3", "HCM", SCANNERS["B"], frames=6, seed=0)
        >>> scan.shape, scan.spacing_mm, scan.es
        ((256, 220), (1.18, 1.18, 8.0), 2)
    """
    key = _key(dataset, case, seed)
    rng = np.random.default_rng(key)
    p = POPULATIONS[pathology]
    heart = draw_heart(pathology, rng)
    spacing = float(rng.choice(scanner.spacing_mm))
    thickness = float(rng.choice((10, 10, 10, 10, 5) if dataset == "acdc" else (10, 9.6, 8)))
    size = int(np.clip(round(310 / spacing), 192, 256))
    shape = (size, round(0.86 * size)) if size * spacing > 290 else (size, size)
    radii = heart.boundaries(np.linspace(-np.pi, np.pi, 90), 0.0)
    middle = (radii[1].max() - radii[2].max()) / 2  # halfway from free wall to lateral wall
    above, below = int(rng.integers(0, 2)), int(rng.integers(0, 2))
    slices = np.arange(-above, np.ceil(heart.lengths_mm[1] / thickness) + below)
    reverse = dataset == "mnms" and rng.random() < 0.85  # apex first
    return Scan(
        case=case,
        pathology=pathology,
        heart=heart,
        lvef=float(np.clip(rng.normal(p.lvef, 0.05), 0.1, 0.75)),
        rvef=float(np.clip(rng.normal(p.rvef, 0.07), 0.1, 0.75)),
        scanner=scanner,
        shape=shape if rng.random() < 0.5 else shape[::-1],
        spacing_mm=(spacing, spacing, thickness),
        angle=float(rng.uniform(-np.pi, np.pi)),
        centre_mm=(middle + float(rng.uniform(-6, 6)), float(rng.uniform(-6, 10))),
        z_mm=tuple(((slices[::-1] if reverse else slices) + 0.5) * thickness),
        frames=frames,
        ed=0,
        es=int(rng.integers(frames // 3, frames // 2 + 1)),
        key=key,
    )


def redrawn(scan: Scan) -> Scan:
    """Contours the same scan again: the masks differ by a few per cent of volume.

    Example:
        >>> scan = draw_scan("acdc", "patient001", "NOR", ACDC_SCANNER, frames=12, seed=0)
        >>> (redrawn(scan).heart.volumes() / scan.heart.volumes()).round(2).tolist()
        [1.03, 0.97, 1.02]
    """
    lv, myo, rv = scan.heart.volumes_mL
    return replace(scan, heart=replace(scan.heart, volumes_mL=(1.03 * lv, 0.97 * myo, 1.02 * rv)))
