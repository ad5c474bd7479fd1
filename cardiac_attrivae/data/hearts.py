"""Analytic hearts of known volume, and what a scanner makes of them.

Around the axis of the LV every boundary of a heart is a squared radius, and a squared radius is
twice an area per radian, so boundaries add as areas do: the area of every structure in every slice,
and its volume, are closed formulas (`Heart.areas`, `Heart.volumes`).

The frame of a heart is what a clinician sees, in mm: x to the viewer's right, y down, origin on
the axis of the LV, RV on the left, anterior wall up; z runs from the base (0) to the apex. The
angle psi is zero towards the RV and grows towards the anterior wall.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from scipy.ndimage import gaussian_filter, zoom

from ..schema import HEART


class Population(NamedTuple):
    """A diagnosis: volumes and basal areas (LV, MYO, RV) of the 150 ACDC patients."""

    mean_mL: tuple[float, float, float]
    sd_mL: tuple[float, float, float]
    basal_cm2: tuple[float, float, float]
    lvef: float  # ejection fractions: means over the ACDC training half
    rvef: float
    ovality: float  # of the cavity; a loaded RV flattens the septum
    asymmetry: float  # of the wall; HCM is thick at the septum, an infarct is thin somewhere


POPULATIONS = {
    "NOR": Population((130, 95, 149), (28, 24, 37), (21, 15, 35), 0.60, 0.55, 0.05, 0.08),
    "MINF": Population((181, 127, 125), (45, 30, 40), (26, 19, 30), 0.31, 0.56, 0.06, 0.28),
    "DCM": Population((283, 158, 182), (52, 29, 63), (36, 19, 38), 0.18, 0.32, 0.04, 0.08),
    "HCM": Population((132, 167, 123), (34, 57, 33), (18, 24, 32), 0.67, 0.60, 0.08, 0.30),
    "RV": Population((117, 78, 217), (38, 23, 63), (19, 13, 41), 0.55, 0.31, 0.20, 0.10),
}
# Volumes within a diagnosis, ACDC training half: LV-MYO .69, LV-RV .62, MYO-RV .47. The first is
# lower here, because areas, which follow volumes closely in a phantom, correlate by .3 only.
WITHIN_GROUP = np.array([[1.0, 0.45, 0.65], [0.45, 1.0, 0.5], [0.65, 0.5, 1.0]])
# Area along the axis is A(0) (1 - (z/length)^q); q for a blunt cavity, an ellipsoidal epicardium
# and an RV that tapers early. These three fit the ratios of volume to basal area of every group.
TAPER = np.array([2.5, 2.0, 1.5])
MEAN_FRACTION = TAPER / (TAPER + 1)  # of A(0), averaged over the length


@dataclass(frozen=True)
class Heart:
    """One heart at one moment.

    Attributes:
        volumes_mL: LV, MYO, RV. Papillary muscles belong to the LV, as in clinical contours.
        lengths_mm: From the base to the tip of the LV cavity, of the epicardium, of the RV.
        ovality: Amplitude and angle of the second harmonic of the cavity.
        asymmetry: Amplitude and angle of the first harmonic of the wall.
        sector: Half-width of the RV at the base in radians, and its lean towards the diaphragm.
    """

    volumes_mL: tuple[float, float, float]
    lengths_mm: tuple[float, float, float]
    ovality: tuple[float, float] = (0.0, 0.0)
    asymmetry: tuple[float, float] = (0.0, 0.0)
    sector: tuple[float, float] = (1.1, 0.5)

    def volumes(self) -> np.ndarray:
        """Volumes of LV, MYO and RV in mL, (3,)."""
        return np.array(self.volumes_mL, dtype=float)

    def areas(self, z_mm: float) -> np.ndarray:
        """Areas of LV, MYO and RV in cm^2 in the slice at ``z_mm`` from the base, (3,)."""
        lv, myo, rv = self.volumes_mL
        lengths = np.array(self.lengths_mm)
        at_base_cm2 = np.array([lv, lv + myo, rv]) / (MEAN_FRACTION * lengths / 10)
        s = np.clip(z_mm / lengths, 0, 1)
        cavity, epicardium, right = at_base_cm2 * (1 - s**TAPER) * (z_mm >= 0)
        return np.array([cavity, epicardium - cavity, right])

    def boundaries(self, psi: np.ndarray, z_mm: float) -> tuple[np.ndarray, ...]:
        """Radii in mm of endocardium, epicardium and RV free wall, each of the shape of ``psi``.

        The harmonics average to zero over the circle and the profile of the RV integrates to one,
        so half the integral of r^2 is exactly the area that `areas` states, whatever the shape.
        """
        lv, myo, rv = (100 * float(area) for area in self.areas(z_mm))  # mm^2
        amplitude, angle = self.ovality
        endo2 = lv / np.pi * (1 + amplitude * np.cos(2 * (psi - angle)))
        amplitude, angle = self.asymmetry
        epi2 = endo2 + myo / np.pi * (1 + amplitude * np.cos(psi - angle))
        half, lean = self.sector
        half *= 1 - 0.4 * min(max(z_mm / self.lengths_mm[2], 0), 1)  # as measured in ACDC
        t = np.clip(psi / half, -1, 1)
        profile = 2 / (np.pi * half) * np.sqrt(1 - t**2) * (1 - lean * t)
        return np.sqrt(endo2), np.sqrt(epi2), np.sqrt(epi2 + 2 * rv * profile)

    def labels(self, x: np.ndarray, y: np.ndarray, z_mm: float) -> np.ndarray:
        """Canonical labels at points (x, y) mm of the slice at ``z_mm``; uint8, shape of ``x``."""
        r, label = np.hypot(x, y), np.zeros(x.shape, dtype=np.uint8)
        radii = self.boundaries(np.arctan2(-y, -x), z_mm)
        for structure, radius in zip(reversed(HEART), reversed(radii), strict=True):
            label[r < radius] = structure
        return label

    def contracted(self, contraction: float, lvef: float, rvef: float) -> Heart:
        """The same heart on its way from end diastole (0) to end systole (1).

        The wall keeps its volume and thickens; axes shorten by a quarter of the ejection fraction.
        """
        lv, myo, rv = self.volumes_mL
        left, right = 1 - 0.25 * contraction * lvef, 1 - 0.25 * contraction * rvef
        lengths = np.array(self.lengths_mm) * (left, left, min(left, right))
        volumes = (lv * (1 - lvef * contraction), myo, rv * (1 - rvef * contraction))
        return replace(self, volumes_mL=volumes, lengths_mm=tuple(lengths))


def draw_heart(pathology: str, rng: Generator) -> Heart:
    """An end-diastolic heart of one diagnosis: volumes from `POPULATIONS`, basal areas to match.

    Volumes are log-normal with the population's mean and sd, correlated by `WITHIN_GROUP` and cut
    at 2.5 sd, so that none is negative or tiny. Lengths follow the cube root of volume.
    """
    if pathology not in POPULATIONS:
        raise ValueError(f"pathology must be one of {', '.join(POPULATIONS)}, got {pathology!r}")
    p = POPULATIONS[pathology]
    mean, sd, basal = np.array(p.mean_mL), np.array(p.sd_mL), np.array(p.basal_cm2)
    normal = np.clip(np.linalg.cholesky(WITHIN_GROUP) @ rng.standard_normal(3), -2.5, 2.5)
    spread2 = np.log1p((sd / mean) ** 2)  # the log-normal with this mean and sd
    volumes = mean * np.exp(np.sqrt(spread2) * normal - spread2 / 2)

    def with_epicardium(v: np.ndarray) -> np.ndarray:
        return np.array([v[0], v[0] + v[1], v[2]])

    size = with_epicardium(volumes) / with_epicardium(mean)
    typical_mm = 10 * with_epicardium(mean) / (MEAN_FRACTION * with_epicardium(basal))
    slender = np.exp(0.09 * rng.standard_normal(2))  # long and narrow, or short and wide
    slender = np.array([slender[0], slender[0] ** 0.6, slender[1]])
    cavity, epicardium, right = typical_mm * np.cbrt(size) * slender
    epicardium = np.clip(epicardium, cavity + 5, cavity + 15)  # the apical cap of muscle
    right = min(right, 0.92 * epicardium)
    septal = rng.normal(0, 0.5)  # HCM thickens the septum; elsewhere any side
    return Heart(
        volumes_mL=tuple(volumes.tolist()),
        lengths_mm=(float(cavity), float(epicardium), float(right)),
        ovality=(p.ovality * rng.uniform(0.5, 1.5), np.pi / 2 + rng.normal(0, 0.3)),
        asymmetry=(p.asymmetry, septal if pathology == "HCM" else rng.uniform(-np.pi, np.pi)),
        sector=(rng.uniform(1.0, 1.2), rng.uniform(0.3, 0.6)),
    )


class Scanner(NamedTuple):
    """How a vendor's pictures look: signals and noise relative to ``full_scale``.

    Spacings are those of the real data, each vendor's contrast a caricature of it: what matters
    is that a network trained on A and B meets other pictures in C and D.
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


@dataclass(frozen=True)
class Scan:
    """A heart in a scanner: everything that the pictures and masks of one case follow from."""

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
        """Coordinates x and y in mm of every voxel of a slice, both (H, W) indexed (i, j)."""
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
    """Renders frames of a scan, int16 (H, W, slices, frames); a frame alone comes out the same."""
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
        still = _surroundings(scan, x, y, z, fine, coarse)
        clean = gaussian_filter(still, blur)
        for n, frame in enumerate(frames):
            heart = scan.heart_at(frame)
            # A slice is thick: average over its depth.
            layers = [
                _paint_heart(
                    scanner, heart, still[box], r[box], psi[box], depth, fine[box], coarse[box]
                )
                for depth in (z - scan.spacing_mm[2] / 4, z + scan.spacing_mm[2] / 4)
            ]
            clean[box] = gaussian_filter((layers[0] + layers[1]) / 2, blur)
            noise = np.random.default_rng([scan.key, 1, frame, k])
            noise = noise.standard_normal((2, *scan.shape), dtype=np.float32)
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
    rough = 0.5 * (s.blood + s.muscle)  # trabeculae: cavity, but not pure blood
    body = _over(body, free_wall + fat - r, 0.8 * s.fat, 3)
    body = _over(body, free_wall + wall - r, s.muscle)
    body = _over(body, free_wall - r, blood)
    body = _over(body, np.minimum(free_wall - r, 3 * (fine - 2.4 + 1.2 * z / tip)), rough, 3)
    body = _over(body, epi - r, s.muscle * (1 + 0.06 * fine))
    body = _over(body, endo - r, blood)
    band = r - endo * (0.95 - 0.05 * fine - 0.12 * z / tip)
    body = _over(body, np.minimum(endo - r, band), rough, 2)
    radius = 10 * float(np.sqrt(heart.areas(z)[0] / np.pi))
    for angle in (2.3, -2.0):  # anterolateral and posteromedial papillary muscles
        middle = 0.62 * radius
        distance = np.sqrt(r**2 + middle**2 - 2 * r * middle * np.cos(psi - angle))
        size = 0.25 * radius * np.sin(np.pi * min(max((z / tip - 0.1) / 0.7, 0), 1))
        body = _over(body, np.minimum(size - distance + 0.8 * fine, endo - r), s.muscle)
    return body


def _key(*parts: object) -> int:
    """A seed made of ``parts`` alone: the same on every machine, in every version of Python."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big")


def draw_scan(
    dataset: str, case: str, pathology: str, scanner: Scanner, frames: int, seed: int
) -> Scan:
    """Draws everything about one case from (dataset, case, seed) alone."""
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
    """The same scan contoured by another hand: its masks differ by a few per cent of volume."""
    lv, myo, rv = scan.heart.volumes_mL
    return replace(scan, heart=replace(scan.heart, volumes_mL=(1.03 * lv, 0.97 * myo, 1.02 * rv)))
