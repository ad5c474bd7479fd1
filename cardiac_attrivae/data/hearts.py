"""Draws analytic hearts of known volume.

Around the axis of the LV every boundary of a heart is a squared radius, and a squared radius is
twice an area per radian, so boundaries add as areas do: the area of every structure in every slice,
and its volume, are closed formulas (`Heart.areas`, `Heart.volumes`).

The coordinates of a heart are those of a clinician's view, in mm: x to the viewer's right, y down,
origin on the axis of the LV, RV on the left, anterior wall up; z runs from the base (0) to the
apex. The angle psi is zero towards the RV and grows towards the anterior wall.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

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
    """Draws an end-diastolic heart of one diagnosis of `POPULATIONS`, with its volumes.

    Volumes are log-normal with the population's mean and sd, correlated by `WITHIN_GROUP` and cut
    at 2.5 sd, so that none is negative or tiny. Lengths follow the cube root of volume.

    Example:
        >>> heart = draw_heart("DCM", np.random.default_rng(0))
        >>> heart.volumes().round().tolist()  # LV, MYO, RV in mL
        [285.0, 154.0, 204.0]
        >>> heart.areas(0).round(1).tolist()  # cm^2 at the base
        [35.8, 18.7, 43.1]
    """
    if pathology not in POPULATIONS:
        raise ValueError(f"pathology is {pathology!r}; expected one of {', '.join(POPULATIONS)}")
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
