"""Coverage-guided fuzzing of the reader of NIfTI: python tests/fuzz_nifti.py -max_total_time=600

Needs atheris (``pip install atheris``), which is no dependency. Even inputs are .nii, odd ones are
packed into a .nii.gz, so that the search is not lost in the checksum. Whatever comes out but an
array or a `DataError` with a message is a finding.
"""

import gzip
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["cardiac_attrivae", "nibabel"]):
    import nibabel  # noqa: F401  the reader imports it when it is first called: too late

    from cardiac_attrivae.data.nifti import read_mask, read_volume
    from cardiac_attrivae.schema import DataError

import faults

FOLDER = Path(tempfile.mkdtemp())


def read(data: bytes) -> None:
    packed = bool(data) and data[0] % 2
    file = FOLDER / ("x.nii.gz" if packed else "x.nii")
    file.write_bytes(gzip.compress(data[1:], 1) if packed else data[1:])
    for reader in (read_volume, read_mask):
        try:
            volume = reader(file, 0)
        except DataError as error:
            if not str(error):
                raise RuntimeError("an error without a message") from error
        else:
            if volume.voxels.ndim != 3:
                raise RuntimeError(f"voxels of shape {volume.voxels.shape}")


if __name__ == "__main__":
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    faults.save(FOLDER / "sound.nii", faults.heart()[::8, ::8])
    for first in (b"\0", b"\1"):
        (corpus / first.hex()).write_bytes(first + (FOLDER / "sound.nii").read_bytes())
    atheris.Setup([*sys.argv, str(corpus)], read)
    atheris.Fuzz()
