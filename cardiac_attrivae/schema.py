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


LARGEST_SEED = 2**32 - 1
"""NumPy and scikit-learn take no larger one."""

SIZES = ("cm2", "mL")
"""Units of what is measured in drawn hearts: areas, and the volumes in stacks."""


class Scale(NamedTuple):
    """What is measured in the slices of a store: areas, or of a stack the volumes that it shows."""

    pixel: float  # cm2 that a pixel counts for, or mL in a stack
    slices: int = 1  # slices of a stack at each phase; 1 elsewhere

    @property
    def unit(self) -> str:
        """Unit of what is measured."""
        return SIZES[self.slices > 1]


class Keys(StrEnum):
    """Names in ``engine.state.output`` and in the dictionaries that MONAI transforms pass along."""

    IMAGE = "image"  # (N, C, H, W) slices in [0, 1], 0 outside the mask
    LABEL = "label"  # (N, C, H, W) canonical masks
    ATTRIBUTES = "attributes"  # (N, K) in the order of the pipeline's attribute list
    CONDITION = "condition"  # (N, M) category that a conditional network is told, see `one_hot`
    CLASS = "class"  # (N, M) class that a classifier learns, one-hot, see `one_hot`
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
    """A case or folder that cannot be used as it is; the message says why and what is accepted.

    What a docstring says is refused raises it.
    """


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
UNFINISHED = "UNFINISHED"
"""Word in that file while they are written."""


@dataclass(frozen=True)
class CaseRecord:
    """One patient at one phase: where the files are and what is known about them."""

    case: str  # patient id, unique within the data set
    dataset: str  # name of the manifest, for example ``acdc``
    split: str  # one of ``train``, ``val``, ``test``
    # NIfTI file of the short-axis stack, 3-D, or 4-D with time last; or a folder with the DICOM
    # files of its cine
    image: Path
    mask: Path  # NIfTI file of its labels
    # 0-based position of the phase in the cine. Only this frame of a 4-D file is read; a 3-D file
    # holds nothing else.
    frame: int
    # raw label number -> canonical structure, every accepted number included
    label_numbers: Mapping[int, Structure] = field(hash=False)
    domain: str  # what a domain shift is measured across: the vendor where known, else the data set
    vendor: str = ""  # as the data set says, as the next two; empty where it says nothing
    centre: str = ""
    pathology: str = ""
    phase: str = "ED"  # ``ED`` or ``ES``
    match: str = "order"  # one of ``MATCHES``
    mirror: bool = False  # whether it is stored as a mirror image, and is turned round
    mask_source: str = MANUAL  # who made the mask: ``manual``, or the name of a segmenter
    # id in the source where ``case`` is a pseudonym; it is never written
    source_case: str = field(default="", repr=False)
    # the same patient at ES; None where there is no mask at ES. Where only ED is read, it tells
    # whether the two are exchanged
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
    """Codes and attributes of the same slices, with their names."""

    # patient of each row, length N; a patient with several slices occurs several times
    cases: tuple[str, ...]
    codes: np.ndarray  # latent codes, (N, D)
    attributes: np.ndarray  # attribute values in their own units, (N, K)
    names: tuple[str, ...]  # attribute names, length K, in column order
    # latent dimension that each attribute was trained on, length K; None for attributes (or models)
    # without one
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
