"""Writes DICOM files of a cine, one image in each, as a scanner exports them."""

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

SECRET = "SECRET^PATIENT"
"""Stands in every header, and must stand nowhere else."""

LPS = np.eye(3)[:2]
OBLIQUE = np.array([[0.6, 0.64, -0.48], [-0.8, 0.48, -0.36]])
"""Directions of columns and rows, (2, 3)."""


def save_cine(folder, cine, spacing_mm, directions=LPS, origin_mm=(0, 0, 0), change=None):
    """Writes a cine (I, J, S, T); by name the files are in the reverse order.

    Args:
        folder: Where to; made if absent.
        cine: int16, i counts columns and j rows.
        spacing_mm: Along i, j, s.
        directions: Of columns and rows in LPS, (2, 3).
        origin_mm: Of the first voxel.
        change: What to do to each header before it is written: f(dataset, slice, frame).
    """
    folder.mkdir(parents=True, exist_ok=True)
    columns, rows, slices, frames = cine.shape
    step = np.cross(*directions) * spacing_mm[2]
    uid = [generate_uid(entropy_srcs=[str(folder), part])[:60] for part in ("series", "space")]
    for s in range(slices):
        for t in range(frames):
            header = Dataset()
            header.SOPClassUID = MRImageStorage
            header.SOPInstanceUID = generate_uid(entropy_srcs=[str(folder), f"{s} {t}"])
            header.SeriesInstanceUID, header.FrameOfReferenceUID = uid
            header.PatientName = header.PatientID = header.InstitutionName = SECRET
            header.SeriesDescription = header.ImageComments = SECRET
            header.Modality, header.SamplesPerPixel = "MR", 1
            header.PhotometricInterpretation = "MONOCHROME2"
            header.Columns, header.Rows = columns, rows
            header.BitsAllocated, header.BitsStored, header.HighBit = 16, 16, 15
            header.PixelRepresentation = 1
            header.PixelSpacing = [spacing_mm[1], spacing_mm[0]]  # between rows, between columns
            header.SliceThickness = 0.8 * spacing_mm[2]  # a gap is left between slices
            header.ImageOrientationPatient = [round(float(x), 9) for x in directions.ravel()]
            header.ImagePositionPatient = [round(float(x), 9) for x in origin_mm + s * step]
            header.TriggerTime, header.InstanceNumber = 31.25 * t, 1 + s * frames + t
            header.PixelData = cine[:, :, s, t].T.astype("<i2").tobytes()
            header.file_meta = FileMetaDataset()
            header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            if change:
                change(header, s, t)
            name = f"{slices - 1 - s:02d}_{frames - 1 - t:02d}.dcm"
            header.save_as(folder / name, enforce_file_format=True)


def affine_of(spacing_mm, directions=LPS, origin_mm=(0, 0, 0)):
    """The NIfTI affine (RAS) of the same voxels in the same order, (4, 4)."""
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([*directions, np.cross(*directions)]) * spacing_mm
    affine[:3, 3] = origin_mm
    return np.diag([-1.0, -1, 1, 1]) @ affine
