"""The nouns of the package. Every file may import this one; it imports nothing heavy.

Axis letters, everywhere: I J S voxels of a stack in file order (S between slices), N slices,
C channels, H W pixels (rows, columns), D latent dimensions, K attributes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class Structure(IntEnum):
    """Canonical labels of a mask. Raw label numbers stand in a data set's manifest only."""

    BACKGROUND = 0
    LV = 1
    MYO = 2
    RV = 3


class Phase(StrEnum):
    """Phases of the heart beat at which a patient is measured."""

    ED = "ED"
    ES = "ES"


HEART = (Structure.LV, Structure.MYO, Structure.RV)
"""The structures that a usable slice must show."""

STRUCTURES = tuple(structure.name for structure in HEART)
"""Their names, as columns of measured areas and of Dice."""


def structures_at(phases: Iterable[Phase]) -> tuple[str, ...]:
    """Names the structures of several phases, as columns; those of ED are plain `STRUCTURES`.

    Example:
        >>> structures_at(Phase)
        ('LV', 'MYO', 'RV', 'LV_ES', 'MYO_ES', 'RV_ES')
    """
    ends = {phase: "" if phase == Phase.ED else f"_{phase}" for phase in phases}
    return tuple(name + end for end in ends.values() for name in STRUCTURES)


SIZES = ("cm2", "mL")
"""Units of what is measured in drawn hearts: areas, and the volumes in stacks."""


class Scale(NamedTuple):
    """What is measured in the slices of a store: areas, or of a stack the volumes that it shows.

    Attributes:
        pixel: cm2 that a pixel counts for, or mL in a stack.
        slices: Slices of a stack at each phase; 1 elsewhere.
    """

    pixel: float
    slices: int = 1

    @property
    def unit(self) -> str:
        """Unit of what is measured."""
        return SIZES[self.slices > 1]


class Keys(StrEnum):
    """Names in ``engine.state.output`` and in the dictionaries that MONAI transforms pass along."""

    IMAGE = "image"  # (N, C, H, W) slices in [0, 1], 0 outside the mask
    LABEL = "label"  # (N, C, H, W) canonical masks
    ATTRIBUTES = "attributes"  # (N, K) in the order of the pipeline's attribute list
    ROW = "row"  # (N,) row of cases.csv
    RECONSTRUCTION = "reconstruction"  # (N, C, H, W)
    PREDICTION = "prediction"  # (N, C, H, W) labels that a network found
    MU = "mu"  # (N, D) posterior mean
    LOGVAR = "logvar"  # (N, D) log of the posterior variance
    LATENT = "z"  # (N, D) the sample that was decoded
    LOSS = "loss"  # scalar, what was minimised
    TERMS = "terms"  # name -> scalar, the weighted parts of the loss
    HEALTH = "health"  # name -> scalar, not part of the loss; shows trouble early


class DataError(ValueError):
    """A case or folder that cannot be used as it is; the message says why and what is accepted."""


class ManifestError(DataError):
    """Data that contradict their manifest, or a manifest that contradicts itself."""


SPLITS = ("train", "val", "test")

MATCHES = ("affine", "order")
"""How voxels of mask and image belong together: by their position in the patient, which the headers
give, or by their order in the file."""

MANUAL = "manual"
"""``mask_source`` of the masks of a data set itself; any other names what predicted them."""

SYNTHETIC = "SYNTHETIC.txt"
"""File at the top of a data set of phantoms. Their scores are not those of patients."""


@dataclass(frozen=True)
class CaseRecord:
    """One patient at one phase: where the files are and what is known about them.

    Attributes:
        case: Patient id, unique within the data set.
        dataset: Name of the manifest, for example ``acdc``.
        split: One of ``train``, ``val``, ``test``.
        image: NIfTI file of the short-axis stack, 3-D, or 4-D with time last; or a folder with the
            DICOM files of its cine.
        mask: NIfTI file of its labels.
        frame: 0-based position of the phase in the cine. Only this frame of a 4-D file is read;
            a 3-D file holds nothing else.
        label_numbers: Raw label number -> canonical structure, every accepted number included.
        domain: What a domain shift is measured across: the vendor where known, else the data set.
        vendor, centre, pathology: As the data set says; empty where it says nothing.
        phase: ``ED`` or ``ES``.
        match: One of ``MATCHES``.
        mask_source: Who made the mask: ``manual``, or the name of a segmenter.
        source_case: Id in the source where ``case`` is a pseudonym; it is never written.
        later: The same patient at ES, where slices are read at both phases; None where there is no
            mask at ES, or only ED is read.
    """

    case: str
    dataset: str
    split: str
    image: Path
    mask: Path
    frame: int
    label_numbers: Mapping[int, Structure] = field(hash=False)
    domain: str
    vendor: str = ""
    centre: str = ""
    pathology: str = ""
    phase: str = "ED"
    match: str = "order"
    mask_source: str = MANUAL
    source_case: str = field(default="", repr=False)
    later: CaseRecord | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the record, that of a later phase included."""
        return (self.image, self.mask, *(self.later.files if self.later else ()))


class VAEOutput(NamedTuple):
    """Output of a network: ``reconstruction`` (N, C, H, W); ``mu``, ``logvar``, ``z`` (N, D)."""

    reconstruction: Tensor
    mu: Tensor
    logvar: Tensor
    z: Tensor


@dataclass(frozen=True)
class LatentTable:
    """Codes and attributes of the same slices, with their names.

    Attributes:
        cases: Patient of each row, length N; a patient with several slices occurs several times.
        codes: Latent codes, (N, D).
        attributes: Attribute values in their own units, (N, K).
        names: Attribute names, length K, in column order.
        dimensions: Latent dimension that each attribute was trained on, length K;
            None for attributes (or models) without one.
    """

    cases: tuple[str, ...]
    codes: np.ndarray
    attributes: np.ndarray
    names: tuple[str, ...]
    dimensions: tuple[int | None, ...]

    def __post_init__(self) -> None:
        n, k = self.attributes.shape
        if not (
            len(self.cases) == len(self.codes) == n and len(self.names) == len(self.dimensions) == k
        ):
            raise ValueError(
                f"columns do not fit: {len(self.cases)} cases, codes {self.codes.shape}, "
                f"attributes {self.attributes.shape}, names {self.names}, "
                f"dimensions {self.dimensions}"
            )

    def select(self, names: Sequence[str]) -> LatentTable:
        """Returns the table with some of its attributes, in the given order."""
        columns = [self.names.index(name) for name in names]
        dimensions = tuple(self.dimensions[k] for k in columns)
        values = self.attributes[:, columns]
        return LatentTable(self.cases, self.codes, values, tuple(names), dimensions)
