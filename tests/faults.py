"""The table of faults that test_faults.py iterates over: what is damaged, what becomes of it.

An outcome is how the message, or the reason of a skipped case, begins or what it holds; `ACCEPTED`
is a file that is read, with the values of the sound one. More of the same kind is beside the rooms
concerned, in `test_nifti.DAMAGE` and `test_preprocess.FAULTS`.
"""

import gzip
import io
import json
import os
import pickle
import shutil
import zipfile

import nibabel
import numpy as np
import pydicom
import yaml

ACCEPTED = "accepted"
SHAPE, SPACING_MM = (72, 64, 6), (1.5, 1.5, 10.0)


# Files of a case ----------------------------------------------------------------------------------


def save(file, voxels, spacing_mm=SPACING_MM, origin_mm=0.0):
    file.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = origin_mm
    nibabel.save(nibabel.Nifti1Image(voxels, affine), file)


def heart():
    """Labels of discs in the inner slices of a stack, base first, (72, 64, 6)."""
    i, j = np.indices(SHAPE[:2])
    mask = np.zeros(SHAPE, np.uint8)
    for s in range(1, 5):
        size = 1 - s / 8
        mask[np.hypot(i - 22, j - 30) < 9 * size, s] = 3
        mask[np.hypot(i - 40, j - 31) < 14 * size, s] = 2
        mask[np.hypot(i - 40, j - 31) < 9 * size, s] = 1
    return mask


def picture(seed=0):
    """Noise, in which the wall of `heart` is dark."""
    noise = np.random.default_rng(seed).integers(20, 900, SHAPE).astype(np.int16)
    return np.where(heart() == 2, 20 + noise // 20, noise)


def edit(file, change, **header):
    save(file, change(np.asarray(nibabel.load(file).dataobj).copy()), **header)


def stored(change):
    """Changes the bytes inside a gzip file."""
    return lambda file: file.write_bytes(gzip.compress(change(gzip.decompress(file.read_bytes()))))


def at(place, value):
    """Changes bytes of the header: 40 dim, 70 datatype, 80 pixdim[1], 108 offset, 112 slope."""
    return stored(lambda data: data[:place] + bytes(value) + data[place + len(bytes(value)) :])


def f32(*values):
    return np.array(values, np.float32).tobytes()


def i16(*values):
    return np.array(values, np.int16).tobytes()


def big_endian(file):
    voxels = np.asarray(nibabel.load(file).dataobj)
    image = nibabel.Nifti1Image(voxels, None, nibabel.Nifti1Header(endianness=">"))
    image.header.set_zooms(SPACING_MM)
    nibabel.save(image, file)


def scaled(file, slope, inter):
    """The same values, stored otherwise."""
    values = np.asarray(nibabel.load(file).dataobj)
    save(file, ((values - inter) / slope).astype(np.int16))
    at(112, f32(slope, inter))(file)


def second_heart(mask):
    mask[50:70, 48:62, 2] = 2
    mask[53:67, 51:59, 2] = 1
    return mask


def link_out(file):
    elsewhere = file.parents[3] / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    os.replace(file, elsewhere / f"{file.parent.name}_{file.name}")
    file.symlink_to(elsewhere / f"{file.parent.name}_{file.name}")


def broken_link(file):
    file.unlink()
    file.symlink_to("nowhere")


def pointer(text):
    return lambda file: file.write_text(text)


def folder_instead(file):
    file.unlink()
    file.mkdir()


IMAGE = {
    "a quarter of the gzip": (
        lambda f: f.write_bytes(f.read_bytes()[: f.stat().st_size // 4]),
        "image.nii.gz cannot be read",
    ),
    "wrong length in the gzip": (
        lambda f: f.write_bytes(f.read_bytes()[:-4] + b"abcd"),
        "image.nii.gz cannot be read",
    ),
    "bytes after the end": (
        lambda f: f.write_bytes(f.read_bytes() + b"uploaded by curl"),
        "image.nii.gz cannot be read: other bytes follow the packed ones",
    ),
    "not gzip though .gz": (
        lambda f: f.write_bytes(gzip.decompress(f.read_bytes())),
        "image.nii.gz cannot be read: it is not packed although its name ends in .gz: rename it",
    ),
    "more in the header than in the file": (
        at(40, i16(3, 72, 64, 60)),
        "image.nii.gz cannot be read",
    ),
    "terabytes in the header": (
        at(40, i16(3, 32767, 32767, 32767)),
        "image.nii.gz has shape (32767, 32767, 32767); expected at most",
    ),
    "no voxel in the header": (at(40, i16(3, 72, 0, 6)), "image.nii.gz has shape (72, 0, 6)"),
    "voxels begin beyond the file": (at(108, f32(1e9)), "image.nii.gz cannot be read"),
    "voxels begin before the file": (at(108, f32(-1e9)), "image.nii.gz cannot be read"),
    "voxels begin at the header": (
        at(108, f32(0)),
        "image.nii.gz cannot be read: its voxels begin at byte 0, inside its header",
    ),
    "a gigabyte of zeros after the voxels": (
        stored(lambda data: data + bytes(1 << 24)),  # 16 MB here: none of it is kept
        ACCEPTED,
    ),
    "-infinite voxels": (
        lambda f: edit(f, lambda v: np.where(v > 890, -np.inf, v)),
        "image.nii.gz holds NaN or infinite values",
    ),
    "voxels that overflow float32": (
        lambda f: edit(f, lambda v: v * 1e300),
        "image.nii.gz holds NaN or infinite values, or beyond float32",
    ),
    "an offset that swallows the picture": (
        lambda f: edit(f, lambda v: v.astype(np.float64) - 1e12),
        "image.nii.gz holds values of up to 1e+12 that lie within 879, which float32 hardly tells "
        "apart: subtract the smallest value, and save it again",
    ),
    "negative spacing": (at(80, f32(-1.5)), "image.nii.gz states a spacing of -1.5 x 1.5 x 10 mm"),
    "spacing in micrometres": (
        at(80, f32(1500, 1500, 10000)),
        "image.nii.gz states a spacing of 1500 x 1500 x 10000 mm; expected positive numbers",
    ),
    "spacing in metres": (at(80, f32(0.0015)), "image.nii.gz states a spacing of"),
    "NaN spacing between slices": (at(88, f32(np.nan)), "image.nii.gz states a spacing of"),
    "5-D": (lambda f: save(f, picture()[..., None, None]), "image.nii.gz has shape (72, 64, 6, 1,"),
    "complex": (
        lambda f: save(f, picture().astype(np.complex64)),
        "image.nii.gz holds complex64; expected numbers",
    ),
    "RGB": (
        lambda f: save(f, np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])),
        "image.nii.gz holds colours (RGB); expected numbers",
    ),
    "a data type that does not exist": (at(70, i16(7777)), "image.nii.gz cannot be read"),
    "0 bytes": (lambda f: f.write_bytes(b""), "image.nii.gz cannot be read"),
    "a folder of its name": (folder_instead, "image.nii.gz is missing"),
    "a link out of the source": (link_out, ACCEPTED),
    "a broken link": (broken_link, "image.nii.gz is a link to a file that is not there"),
    "a pointer of git-annex": (pointer("/annex/objects/MD5E-s5--0"), "image.nii.gz is only a poi"),
    "a pointer of Git LFS": (
        pointer("version https://git-lfs.github.com"),
        "image.nii.gz is only a",
    ),
    "one value throughout": (
        lambda f: edit(f, lambda v: 0 * v + 7),
        "the image is 7 throughout the mask",
    ),
    "big-endian": (big_endian, ACCEPTED),
    "float64": (lambda f: edit(f, lambda v: v.astype(np.float64)), ACCEPTED),
    "scl_slope": (lambda f: scaled(f, 0.25, -3), ACCEPTED),
    "NaN in scl_slope, which means none": (at(112, f32(np.nan, 0)), ACCEPTED),
}
"""Of an image: name -> (damage of the file, outcome)."""

MASK = {
    "NaN in the mask": (
        lambda f: edit(f, lambda v: np.where(v == 3, np.nan, v)),
        "mask.nii.gz holds label nan; expected 0 BACKGROUND, 1 LV, 2 MYO, 3 RV",
    ),
    "infinity in the mask": (
        lambda f: edit(f, lambda v: np.where(v == 3, np.inf, v)),
        "mask.nii.gz holds label inf",
    ),
    "labels of 1.5": (
        lambda f: edit(f, lambda v: v * 0.5),
        "mask.nii.gz holds label 0.5, 1.5; expected",
    ),
    "an interpolated mask": (
        lambda f: edit(f, lambda v: (v + np.roll(v, 1, 0)) / 2),
        "mask.nii.gz holds label 1.5, 2.5",
    ),
    "labels of 2.9999": (lambda f: edit(f, lambda v: v * np.float32(2.9999 / 3)), ACCEPTED),
    "scl_slope on the mask": (lambda f: scaled(f, 0.5, 0), ACCEPTED),
    "a slope that makes other labels": (at(112, f32(2, 0)), "mask.nii.gz holds label 4, 6"),
    "negative labels": (lambda f: edit(f, lambda v: -v.astype(np.int8)), "mask.nii.gz holds label"),
    "a slice less": (lambda f: edit(f, lambda v: v[..., 1:]), "image has shape"),
    "axes swapped": (lambda f: edit(f, lambda v: v.transpose(1, 0, 2)), "image has shape"),
    "empty": (lambda f: edit(f, lambda v: 0 * v), "mask.nii.gz is empty at ED"),
    "no myocardium": (lambda f: edit(f, lambda v: np.where(v == 2, 0, v)), "no slice shows more"),
    "two hearts": (
        lambda f: edit(f, second_heart),
        "mask.nii.gz shows the LV in two places; expected one",
    ),
    "a link out of the source": (link_out, ACCEPTED),
    "a broken link": (broken_link, "mask.nii.gz is a link to a file that is not there"),
    "0 bytes": (lambda f: f.write_bytes(b""), "mask.nii.gz cannot be read"),
    "big-endian": (big_endian, ACCEPTED),
}

NOTED = {
    "cut off by the border": (
        lambda f: edit(f, lambda v: np.where(np.indices(SHAPE)[0] < (v == 3).any(0) * 22, 3, v)),
        "heart cut off by the border of the image",
    ),
    "moved by a voxel, as the affine tells": (
        lambda f: edit(f, lambda v: v, origin_mm=(1.5, 0, 0)),
        "image and mask lie apart by their affines; voxels are matched as stored",
    ),
    "moved by two centimetres": (
        lambda f: edit(f, lambda v: np.roll(v, 13, 0)),
        "the LV is not brighter than its wall: the mask lies elsewhere than the heart, or the scan "
        "is no bright-blood cine",
    ),
    # Nothing in the files tells: a voxel more or less is within what contours differ by.
    "moved by a voxel, and nothing tells": (lambda f: edit(f, lambda v: np.roll(v, 1, 0)), None),
}
"""Of a mask that is used nevertheless: name -> (damage, what `check` notes)."""


# DICOM --------------------------------------------------------------------------------------------


def every(change):
    """Changes the header of each image of a folder."""

    def damage(folder):
        for file in sorted(folder.glob("*.dcm")):
            rewrite(file, change)

    return damage


def one(change):
    return lambda folder: rewrite(folder / "02_01.dcm", change)


def rewrite(file, change):
    with pydicom.config.disable_value_validation():  # wrong values are the purpose
        header = pydicom.dcmread(file)
        change(header)
        header.save_as(file)


def put(**values):
    return lambda header: [setattr(header, key, value) for key, value in values.items()]


def lose(*keys):
    return lambda header: [delattr(header, key) for key in keys]


def a_second_series(folder):
    for file in sorted(folder.glob("02_*.dcm")):
        header = pydicom.dcmread(file)
        header.SeriesInstanceUID += ".7"
        header.save_as(folder / f"again_{file.name}")


def one_series_per_slice(folder):
    for file in sorted(folder.glob("*.dcm")):
        header = pydicom.dcmread(file)
        header.SeriesInstanceUID += f".{int(file.name[:2])}"
        header.InstanceNumber = header.InstanceNumber % 2
        (folder / file.name[:2]).mkdir(exist_ok=True)
        header.save_as(folder / file.name[:2] / file.name)
        file.unlink()


def halved(header):
    """The same values, stored as half of them."""
    header.PixelData = (np.frombuffer(header.PixelData, "<i2") - 100).tobytes()
    header.RescaleSlope, header.RescaleIntercept = 1, 100


def encapsulated(syntax):
    def change(header):
        header.file_meta.TransferSyntaxUID = syntax
        header.PixelData = pydicom.encaps.encapsulate([bytes(999)])
        header["PixelData"].is_undefined_length = True

    return change


def link_one_out(folder):
    elsewhere = folder.parents[2] / "elsewhere.dcm"
    os.replace(folder / "00_00.dcm", elsewhere)
    (folder / "00_00.dcm").symlink_to(elsewhere)


DICOM = {
    "an inner slice missing": (
        lambda f: [(f / f"02_0{t}.dcm").unlink() for t in (0, 1)],
        "has slices that lie 10 to 20 mm apart; expected equal steps: one may be missing",
    ),
    "a frame of one slice missing": (
        lambda f: (f / "02_01.dcm").unlink(),
        "has 1 images at slice position 4 of 6, 02_00.dcm for example, and 2 at others",
    ),
    "an image twice": (
        lambda f: shutil.copy(f / "02_01.dcm", f / "copy.dcm"),
        "has 3 images at slice position 4 of 6, 02_00.dcm for example, and 2 at others",
    ),
    "all images twice": (
        lambda f: shutil.copytree(f, f / "copy"),
        "has frames of one slice position with equal TriggerTime and InstanceNumber",
    ),
    "a slice in two series": (a_second_series, "shows a slice position in two series"),
    "one slice position": (
        lambda f: [file.unlink() for file in f.glob("*.dcm") if file.name[:2] != "02"],
        "holds a single slice position; expected a stack",
    ),
    "a long axis among them": (
        one(put(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])),
        "holds 1 images of another size, spacing, orientation or frame of reference than",
    ),
    "two pixel spacings": (one(put(PixelSpacing=[1.5, 1.4])), "holds 1 images of another size"),
    "two frames of reference": (one(put(FrameOfReferenceUID="1.2")), "holds 1 images of another"),
    "a slice shifted in its plane": (
        one(put(ImagePositionPatient=[-4.5, 0, 30])),
        "has slices that are shifted in their plane by up to 3 pixels",
    ),
    "an empty folder": (lambda f: [x.unlink() for x in f.iterdir()], "holds no files"),
    "what Windows puts beside them": (
        lambda f: [(f / name).write_bytes(b"\0") for name in ("Thumbs.db", "desktop.ini")],
        ACCEPTED,
    ),
    "a text beside them": (
        lambda f: (f / "notes.txt").write_text("base first"),
        ACCEPTED,
    ),
    "a NIfTI file that is called .dcm": (
        lambda f: shutil.copy(f.parents[1] / "masks" / f"{f.name}.nii.gz", f / "00_00.dcm"),
        "00_00.dcm is no DICOM image",
    ),
    "cut off in the pixels": (
        lambda f: (f / "02_01.dcm").write_bytes((f / "02_01.dcm").read_bytes()[:1500]),
        "02_01.dcm is no DICOM image, or a damaged one",
    ),
    "fewer pixels than the header says": (
        every(lambda h: put(PixelData=h.PixelData[:-100])(h)),
        "05_01.dcm holds fewer pixels than the 72 x 64 of its header",
    ),
    "0 bytes": (lambda f: (f / "02_01.dcm").write_bytes(b""), "02_01.dcm is no DICOM image"),
    "several images in a file": (
        one(lambda h: put(NumberOfFrames=2, PixelData=h.PixelData * 2)(h)),
        "02_01.dcm holds 2 images (multi-frame DICOM); expected one in each file",
    ),
    "dark and bright exchanged": (
        one(put(PhotometricInterpretation="MONOCHROME1")),
        "02_01.dcm is not in MONOCHROME2",
    ),
    "no position": (one(lose("ImagePositionPatient")), "02_01.dcm has no ImagePositionPatient"),
    "no orientation": (one(lose("ImageOrientationPatient")), "02_01.dcm has no ImageOrientation"),
    "directions askew": (
        every(put(ImageOrientationPatient=[1, 0, 0, 0.2, 1, 0])),
        "00_00.dcm has an ImageOrientationPatient whose directions are not at right angles",
    ),
    "spacing of 0": (every(put(PixelSpacing=[0, 0])), "00_00.dcm states a spacing of 0 x 0 mm"),
    "a position beyond the building": (
        every(put(ImagePositionPatient=[1e300, 0, 0])),
        "00_00.dcm has no ImagePositionPatient that can be read",
    ),
    "spacing of one number": (one(put(PixelSpacing=1.5)), "02_01.dcm has no PixelSpacing"),
    "a time that is none": (one(put(TriggerTime="nan")), "02_01.dcm has no TriggerTime"),
    "no times, and numbers that repeat": (
        every(lambda h: (lose("TriggerTime")(h), put(InstanceNumber=1)(h))),
        "has frames of one slice position with equal",
    ),
    "billions of pixels in the header": (
        every(put(Rows=60000, Columns=60000)),
        "has shape (60000, 60000, 6); expected at most",
    ),
    "another size than that of the mask": (
        every(put(Rows=72, Columns=64)),
        "mask.nii.gz has shape",
    ),
    "a video": (one(encapsulated("1.2.840.10008.1.2.4.100")), "02_01.dcm "),
    "JPEG 2000 that is none": (one(encapsulated("1.2.840.10008.1.2.4.90")), "02_01.dcm "),
    "a link out of the folder": (link_one_out, ACCEPTED),
    "a series and a folder for each slice": (one_series_per_slice, ACCEPTED),
    "no trigger times": (every(lose("TriggerTime")), ACCEPTED),
    "trigger times of 0": (every(put(TriggerTime=0)), ACCEPTED),
    "no instance numbers": (every(lose("InstanceNumber")), ACCEPTED),
    "an index of a disc, and hidden files": (
        lambda f: [(f / name).write_text("x") for name in ("DICOMDIR", ".DS_Store")],
        ACCEPTED,
    ),
    "slope and intercept": (every(halved), ACCEPTED),
    "slope and intercept of one slice": (one(halved), ACCEPTED),
    "compressed by runs": (every(lambda h: h.compress(pydicom.uid.RLELossless)), ACCEPTED),
    "a name in another alphabet": (
        every(put(SpecificCharacterSet="ISO_IR 192", PatientName="Мария^心")),
        ACCEPTED,
    ),
}
"""Of the DICOM files of a case, ``SS_TT.dcm``: name -> (damage of the folder, outcome)."""


# Facts of cases -----------------------------------------------------------------------------------

INFO = {
    "sound": (b"ED: 1\nES: 9\nGroup: NOR\nNbFrame: 30\n", ACCEPTED),
    "CRLF": (b"ED: 1\r\nES: 9\r\nGroup: NOR\r\nNbFrame: 30\r\n", ACCEPTED),
    "BOM": (b"\xef\xbb\xbfED: 1\nES: 9\nGroup: NOR\nNbFrame: 30\n", ACCEPTED),
    "latin-1": (b"Note: M\xfcller\nED: 1\nES: 9\nGroup: NOR\nNbFrame: 30\n", ACCEPTED),
    "empty": (b"", "ED is not given: ED is empty or missing"),
    "no ED": (b"ES: 9\nNbFrame: 30\n", "ED is not given"),
    "ED beyond the frames": (b"ED: 31\nNbFrame: 30\n", "ED is frame 31; expected 1 to 30"),
    "frames in words": (b"ED: 1\nNbFrame: thirty\n", "frames is 'thirty'; expected a whole"),
    "ED of 1.5": (b"ED: 1.5\nNbFrame: 30\n", "ED is '1.5'; expected a whole number"),
    "ED of 10^400": (b"ED: 1" + b"0" * 400, "ED is '1000"),
    "ED said twice": (b"ED: 1\nED: 4\nNbFrame: 30\n", "Info.cfg gives 'ED' as '1' and as '4'"),
    "bytes that are no text": (bytes(range(256)), "ED is not given"),
    "UTF-16": ("ED: 1\nGroup: NOR\nNbFrame: 30\n".encode("utf-16"), ACCEPTED),
    "2 MiB": (b"ED: 1\n" + b" " * 2**21, "Info.cfg has 2 MiB; expected a text of at most 1 MiB"),
}

LISTED = {
    "a,../secret.nii.gz,y/mask.nii.gz,0": "its image is '../secret.nii.gz'; expected a path inside",
    "a,x/../../secret.nii.gz,y/mask.nii.gz,0": "its image is 'x/../../secret.nii.gz'; expected",
    "a,/etc/passwd,y/mask.nii.gz,0": "its image is 'passwd'; expected a path inside",
    "a,x/image 1.nii.gz,/etc/passwd,0": "its mask is 'passwd'; expected a path inside",
    "a,C:\\x.nii.gz,y/mask.nii.gz,0": "its image is 'C:",
    "a,x/absent.nii.gz,y/mask.nii.gz,0": "absent.nii.gz is missing",
    "a,x/image 1.nii.gz,y,0": "no mask: y is missing",
    "a,x/image 1.nii.gz,,0": "no mask: the table gives none",
    "a,,y/mask.nii.gz,0": "its image is ''; expected a path inside the source folder",
    "../a,x/image 1.nii.gz,y/mask.nii.gz,0": "its id is '../a'; expected one without / and",
    ",x/image 1.nii.gz,y/mask.nii.gz,0": "its id is ''; expected one without / and",
}
"""Row of a table that lists the files -> why its case is skipped."""

HEADER = "External code,Pathology,VendorName,Centre,ED,ES\n"
TABLE = {
    "sound": (HEADER + "A1,HCM,GE,1,0,9\n", ACCEPTED),
    "BOM": ("\ufeff" + HEADER + "A1,HCM,GE,1,0,9\n", ACCEPTED),
    "semicolons": ((HEADER + "A1,HCM,GE,1,0,9\n").replace(",", ";"), ACCEPTED),
    "tabs": ((HEADER + "A1,HCM,GE,1,0,9\n").replace(",", "\t"), ACCEPTED),
    "quoted": (HEADER + '"A1","HCM","GE","1","0","9"\n', ACCEPTED),
    "empty cells at the end": (HEADER + "A1,HCM,GE,1,0,9,,,\n\n,,,,,\n", ACCEPTED),
    "the same row twice": (HEADER + 2 * "A1,HCM,GE,1,0,9\n", ACCEPTED),
    "two rows that differ": (
        HEADER + "A1,HCM,GE,1,0,9\nA1,HCM,GE,1,3,9\n",
        "the table has 2 rows for it, and they differ",
    ),
    "a renamed column": (
        HEADER.replace("VendorName", "Vendor_Name") + "A1,HCM,GE,1,0,9\n",
        "no column 'VendorName' (for vendor) in info.csv, did you mean 'Vendor_Name'?",
    ),
    "a column twice": (
        HEADER.replace("Centre", "ED") + "A1,HCM,GE,1,0,9\n",
        "info.csv has several columns 'ED'; expected one",
    ),
    "a comma without quotes": (
        HEADER + "A1,HCM, mild,GE,1,0,9\n",
        "line 2 of info.csv has 7 values; expected 6",
    ),
    "cut off in a row": (HEADER + "A1,HCM,GE,1,2", "line 2 of info.csv has 5 values; expected 6"),
    "a quote that never ends": (HEADER + 'A1,"HCM,GE,1,0,9\n', "line 2 of info.csv is no CSV"),
    "a field of 200 kB": (HEADER + "A1," + "x" * 200_000 + ",GE,1,0,9\n", "of info.csv is no CSV"),
    "negative frame": (HEADER + "A1,HCM,GE,1,-1,9\n", "ED is frame -1; expected 0 to"),
    "frame in words": (HEADER + "A1,HCM,GE,1,x,9\n", "ED is 'x'; expected a whole number"),
    "empty": ("", "no column 'External code'"),
    "UTF-16 without its mark": (
        "".join(f"{sign}\0" for sign in HEADER + "A1,HCM,GE,1,0,9\n"),
        "info.csv is no text: it is of a spreadsheet program, say, or UTF-16 without",
    ),
    "an .xlsx": ("PK\x03\x04\x14\0\x06\0", "info.csv is no text"),
    "no row for the case": (HEADER + "../../A1,HCM,GE,1,0,9\n", "the table has no row for it"),
}


# Keys of pseudonyms -------------------------------------------------------------------------------

KEYS = {
    "missing": (lambda f: None, "is no file; make one with"),
    "a folder": (lambda f: f.mkdir(), "is no file; make one with"),
    "empty": (lambda f: f.write_bytes(b""), "has 0 bytes; expected 16 or more; make one with"),
    "a password": (lambda f: f.write_bytes(b"heart1234\n"), "has 10 bytes; expected 16 or more"),
    "in the store": (lambda f: f.write_bytes(bytes(range(32))), "which it protects; keep it"),
}
"""name -> (how it is made, what is told)."""


# YAML ---------------------------------------------------------------------------------------------

LAUGHS = b"a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + b"".join(
    f"{name}: &{name} [{', '.join(9 * ['*' + below])}]\n".encode()
    for below, name in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML = {
    "aliases that explode": (LAUGHS, "aliases (*name) are not accepted"),
    "a tag that runs code": (
        b"name: !!python/object/apply:os.system ['touch pwned']",
        "tags (tag:yaml.org,2002:python/object/apply:os.system) are not accepted",
    ),
    "a tag of its own": (b"name: !mine x", "tags (!mine) are not accepted"),
    "a harmless tag on nothing": (b"name: !!int ''", "tags (tag:yaml.org,2002:int)"),
    "a key twice": (b"name: one\ntitle: x\nname: two", "key 'name' stands here a second time"),
    "empty": (b"", "expected"),
    "list at the top": (b"- name\n- title", "expected"),
    "deep nesting": (b"[" * 5000, "lie too deep in one another"),
    "not UTF-8": (b"name: M\xfcller", "invalid start byte"),
    "two documents": (b"name: x\n---\nname: y", "expected a single document"),
    "a date that does not exist": (b"name: 2001-99-99", "month must be in 1..12"),
    "a number of 5000 digits": (b"name: " + b"9" * 5000, "Exceeds the limit"),
    "unknown key": (b"nmae: x", "unknown key"),
}
"""Of a manifest and of a pipeline alike."""

OWN = {
    "name": "own",
    "title": "Own data",
    "licence": "Internal",
    "citation": "Unpublished",
    "folders": {"a": "train"},
    "image": "{case}/image.nii.gz",
    "mask": "{case}/mask.nii.gz",
    "labels": {"LV": 1, "MYO": 2, "RV": 3},
    "constants": {"ED": 0},
    "frame_base": 0,
}
MANIFEST = {
    "a number that is none": ({"hold_out": {"salt": "s", "val": float("nan")}}, "val is nan"),
    "a wrong type": ({"labels": [1, 2, 3]}, "labels is [1, 2, 3]; expected keys and values"),
    "a folder above": ({"folders": {"..": "train"}}, "expected folders inside the source folder"),
    "an absolute folder": ({"folders": {"/etc": "train"}}, "expected folders inside"),
    "a root above": ({"roots": ["../.."]}, "inside the source folder"),
    "info above": ({"info": "../{case}.cfg"}, "inside the source folder"),
}
PIPELINE = {
    "NaN": ({"objective": {"gamma": float("nan")}}, "objective.gamma is nan; expected a number, 0"),
    "a number beyond floats": ({"objective": {"gamma": 10**400}}, "objective.gamma is 1000"),
    "a wrong type": ({"schedule": {"epochs": "many"}}, "schedule.epochs is 'many'; expected"),
    "a list for keys": ({"network": [1]}, "network is [1]; expected keys and values"),
    "a base that is a list": ({"base": [1]}, "base is [1]; expected the name of a pipeline"),
    "its own base, by ever longer paths": ({"base": "x/../p.yaml"}, "is its own base"),
}


# Slice stores -------------------------------------------------------------------------------------


def alter(store, **facts):
    """Changes dataset.json, but not its seal."""
    said = json.loads((store / "dataset.json").read_text())
    (store / "dataset.json").write_text(json.dumps(said | facts))


def say(store, **facts):
    """Changes dataset.json and its seal, so that the next check meets it."""
    from cardiac_attrivae.runtime.provenance import seal

    said = json.loads((store / "dataset.json").read_text()) | facts
    alter(store, **facts, sha256=seal(said))


def put_array(name, change):
    def damage(store):
        np.save(store / name, change(np.load(store / name)), allow_pickle=True)

    return damage


def claim(shape):
    """An npy of a few bytes that says it holds ``shape``."""
    stream = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + bytes(64)


def replace(name, old, new):
    def damage(store):
        file = store / name
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))

    return damage


UNSEALED = {
    "images.npy cut off": (
        lambda s: (s / "images.npy").write_bytes((s / "images.npy").read_bytes()[:-9]),
        "the content hash differs",
    ),
    "an older format": (lambda s: say(s, format=0), "has format 0; expected 2. Run preprocess"),
    "a newer format": (lambda s: say(s, format=3), "has format 3; expected 2"),
    "other counts": (
        lambda s: alter(s, splits={"train": 99}),
        "dataset.json was changed after preprocess wrote it: its sha256 differs",
    ),
    "another spacing": (lambda s: alter(s, recipe={"spacing": 1.0}), "its sha256 differs"),
    "another content hash": (lambda s: alter(s, content_hash="0" * 64), "its sha256 differs"),
    "no seal": (lambda s: alter(s, sha256=None), "its sha256 differs"),
    "a seal that is no text": (lambda s: alter(s, sha256=[1]), "its sha256 differs"),
    "dataset.json cut off": (
        lambda s: (s / "dataset.json").write_bytes((s / "dataset.json").read_bytes()[:99]),
        "dataset.json is no JSON",
    ),
    "dataset.json a list": (
        lambda s: (s / "dataset.json").write_text("[1]"),
        "dataset.json holds [1]; expected names with values",
    ),
    "dataset.json deep": (lambda s: (s / "dataset.json").write_text("[" * 10**5), "is no JSON"),
    "a folder for a file": (lambda s: folder_instead(s / "labels.npy"), "labels.npy is missing"),
}
"""Changed after preprocess wrote it."""

SEALED = {
    "other type": (put_array("images.npy", np.float64), "images.npy holds float64"),
    "big-endian": (put_array("images.npy", lambda v: v.astype(">f4")), "images.npy holds >f4"),
    "other shape": (put_array("labels.npy", lambda v: v[:, 0]), "expected uint8 (N, C, H, W)"),
    "fewer rows": (put_array("images.npy", lambda v: v[1:]), "expected one of each for each slice"),
    "labels of other size": (put_array("labels.npy", lambda v: v[..., 1:]), "one of each"),
    "pickled objects": (put_array("images.npy", lambda v: v.astype(object)), "images.npy cannot"),
    "a pickle": (
        lambda s: (s / "images.npy").write_bytes(pickle.dumps([1])),
        "images.npy cannot be read",
    ),
    "terabytes in the header": (
        lambda s: (s / "images.npy").write_bytes(claim((10**9, 1, 128, 128))),
        "images.npy cannot be read",
    ),
    "a column less": (replace("cases.csv", "LVEDV", "lvedv"), "lacks the columns LVEDV"),
    "words for numbers": (replace("cases.csv", ",10.0,", ",ten,"), "cases.csv cannot be read"),
    "an unknown split": (replace("cases.csv", ",train,", ",dev,"), "has the splits {'dev'}"),
    "an empty table": (lambda s: (s / "cases.csv").write_bytes(b""), "cases.csv cannot be read"),
    "a name that leads out": (lambda s: say(s, dataset="../../x"), "dataset is '../../x'; expect"),
    "no spacing": (lambda s: say(s, recipe={}), "recipe.spacing is None; expected 0.1 to 10 mm"),
    "other counts": (lambda s: say(s, splits={"train": 99}), "splits is {'train': 99}; cases.csv"),
}
"""Changed, and content hash and seal with it: by another program, or by someone who means harm."""


def masks(change):
    def damage(store):
        with np.load(store / "masks.npz") as archive:
            kept = dict(archive)
        change(store / "masks.npz", kept)

    return damage


def _bomb(file, kept):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for case in kept:
            archive.writestr(f"{case}.npy", claim((10**13,)))


MASKS = {
    "a mask less": (
        masks(lambda f, kept: np.savez(f, **dict(list(kept.items())[1:]))),
        "no mask of patient001 can be read",
    ),
    "masks of objects": (
        masks(lambda f, kept: np.savez(f, **{k: v.astype(object) for k, v in kept.items()})),
        "no mask of patient001 can be read",
    ),
    "masks of floats": (
        masks(lambda f, kept: np.savez(f, **{k: v * 1.0 for k, v in kept.items()})),
        "holds float64 of shape",
    ),
    "an unknown label": (
        masks(lambda f, kept: np.savez(f, **{k: v + 1 for k, v in kept.items()})),
        "expected uint8 (I, J, S), 0 to 3",
    ),
    "terabytes in a header": (masks(_bomb), "no mask of patient001 can be read"),
    "no zip": (
        lambda s: (s / "masks.npz").write_bytes(b"PK\x03\x04" + bytes(99)),
        "cannot be read",
    ),
    "one array": (lambda s: (s / "masks.npz").write_bytes(claim((1,))), "masks.npz cannot be read"),
}
"""Of masks.npz, which is read when something is measured anew."""


# Runs ---------------------------------------------------------------------------------------------


def model(change):
    """Rewrites model.safetensors, its hash too, after a change of (weights, facts)."""

    def damage(run):
        from cardiac_attrivae.runtime.weights import read_weights, write_weights

        weights, about = read_weights(run / "model.safetensors")
        change(weights, about)
        write_weights(run / "model.safetensors", weights, about)

    return damage


def metadata(change):
    """Rewrites the metadata of model.safetensors, as text, and leaves the rest."""

    def damage(run):
        from safetensors import safe_open
        from safetensors.torch import load_file, save_file

        file = run / "model.safetensors"
        with safe_open(file, "pt") as stored:
            text = stored.metadata()["cardiac_attrivae"]
        save_file(load_file(file), file, {"cardiac_attrivae": change(text)})

    return damage


def without_hash(text):
    return json.dumps({key: fact for key, fact in json.loads(text).items() if key != "sha256"})


def flip(place):
    """Changes one bit of one byte of model.safetensors."""

    def damage(run):
        data = bytearray((run / "model.safetensors").read_bytes())
        data[place] ^= 1
        (run / "model.safetensors").write_bytes(data)

    return damage


def foreign(name):
    return model(lambda w, a: a["pipeline"]["network"].update(name=name, arguments={}))


def pickled(run):
    class Harm:
        def __reduce__(self):
            return os.system, (f"touch {run / 'pwned'}",)

    (run / "model.safetensors").write_bytes(pickle.dumps(Harm()))


LINE = dict.fromkeys(("slope", "intercept", "code_mean", "code_deviation", "residual_sd"), 1.0)
LINE |= {"dimension": 0, "n": 20}

RUN = {
    "cut off": (
        lambda r: (r / "model.safetensors").write_bytes(
            (r / "model.safetensors").read_bytes()[:-99]
        ),
        "model.safetensors cannot be read",
    ),
    "0 bytes": (lambda r: (r / "model.safetensors").write_bytes(b""), "cannot be read"),
    "a pickle that runs code": (pickled, "model.safetensors cannot be read"),
    "one bit of the weights": (flip(-1), "was changed after it was written: its hash differs"),
    "one value of the facts": (
        metadata(lambda text: text.replace('"seed": 0', '"seed": 1')),
        "was changed after it was written: its hash differs",
    ),
    "of a version without the hash": (
        metadata(without_hash),
        "was written by an older version of cardiac-attrivae: it has no hash; train again",
    ),
    "no JSON": (metadata(lambda text: "{"), "model.safetensors cannot be read"),
    "deep JSON": (metadata(lambda text: "[" * 10**5), "model.safetensors cannot be read"),
    "facts that lie deep": (
        metadata(lambda text: '{"sha256": "", "a": ' + 900 * "[" + 900 * "]" + "}"),
        "model.safetensors",  # cannot be read, or was changed, by how much of the stack is left
    ),
    "a list for metadata": (metadata(lambda text: "[1]"), "it has no configuration"),
    "no pipeline": (model(lambda w, a: a.pop("pipeline")), "cannot be used"),
    "a network of another size": (
        model(lambda w, a: a["pipeline"]["network"]["arguments"].update(latent_size=4096)),
        "has shape (8, 256); network.arguments ask for (8192, 256)",
    ),
    "a network beyond all reason": (
        model(lambda w, a: a["pipeline"]["network"]["arguments"].update(latent_size=1_600_000)),
        "cannot be used: latent_size is 1600000; expected a whole number from 1 to 4096",
    ),
    "a line of a dimension that is not there": (
        model(lambda w, a: a.update(calibration={"LVEDA": LINE | {"dimension": 4096}})),
        "calibration.LVEDA is ",
    ),
    "a line of no patient": (
        model(lambda w, a: a.update(calibration={"LVEDA": LINE | {"n": 0}})),
        "calibration.LVEDA is ",
    ),
    "a line without its mean": (
        model(
            lambda w, a: a.update(
                calibration={"LVEDA": {key: LINE[key] for key in LINE if key != "code_mean"}}
            )
        ),
        "calibration is ",
    ),
    "a guide without a hash": (
        model(lambda w, a: a.update(guide={"network": "BasicUNet"})),
        "guide is ",
    ),
    "no seed": (model(lambda w, a: a.pop("seed")), "seed is None; expected a whole number"),
    "a key of a newer version": (
        model(lambda w, a: a["pipeline"].update(quantum=True)),
        "unknown key quantum",
    ),
    "a size that no memory holds": (
        model(lambda w, a: a["pipeline"]["network"]["arguments"].update(image_size=2**30)),
        "image_size is 1073741824; expected a power of two",
    ),
    "an expression for a number": (
        model(lambda w, a: a["recipe"].update(percentiles=["$__import__('os').abort()", 99])),
        "recipe.percentiles is ",
    ),
    "percentiles that fall": (
        model(lambda w, a: a["recipe"].update(percentiles=[99, 1])),
        "expected two numbers from 0 to 100, rising",
    ),
    "an expression for a seed": (model(lambda w, a: a.update(seed="$1")), "seed is '$1'"),
    "an expression for a code": (
        model(lambda w, a: a["code_mean"].__setitem__(0, "$1")),
        "code_mean is ['$1'",
    ),
    "a method of several lines": (
        model(lambda w, a: a["pipeline"].update(method="mine\n\n## Licence\n\nCC0")),
        "expected a line of 1 to 64 printable characters",
    ),
    "an expression for a line": (
        model(lambda w, a: a.update(calibration={"LVEDA": {"slope": "$1"}})),
        "expected attributes with the numbers of their lines",
    ),
    "a code too few": (model(lambda w, a: a["code_mean"].pop()), "one for each latent dimension"),
    "a deviation below 0": (
        model(lambda w, a: a["code_deviation"].__setitem__(0, -1.0)),
        "numbers, 0 or more",
    ),
    "an infinite code": (
        model(lambda w, a: a["code_mean"].__setitem__(0, float("-inf"))),
        "a list of numbers",
    ),
    "a data set that is a path": (
        model(lambda w, a: a.update(train_dataset="../../etc")),
        "train_dataset is '../../etc'",
    ),
    "a title that a terminal obeys": (
        model(lambda w, a: a.update(title="ACDC\x1b[2J")),
        "expected one line of text",
    ),
    "a citation of a book's length": (
        model(lambda w, a: a.update(citation="x" * 10**6)),
        "expected one line of text",
    ),
    "a weight less": (
        model(lambda w, a: w.pop(next(iter(w)))),
        "is missing; network.arguments ask for",
    ),
    "weights of another shape": (
        model(lambda w, a: a["pipeline"]["network"]["arguments"].update(latent_size=9)),
        "cannot be used",
    ),
    "NaN in the weights": (
        model(lambda w, a: w[next(iter(w))].fill_(float("nan"))),
        "holds NaN or infinite values",
    ),
    "a network of another package": (
        foreign("antigravity.Net"),
        "export CARDIAC_ATTRIVAE_NETWORKS=antigravity",
    ),
    "a network of torch": (foreign("torch.nn.Linear"), "code of another package"),
}

# Runs that can be loaded, but not exported as a bundle: MONAI's configurations may hold code.
BUNDLED = {
    "a method that is an expression": (
        model(lambda w, a: a["pipeline"].update(method="$__import__('os').abort()")),
        "MONAI would run as code",
    ),
    "a title that is a macro": (
        model(lambda w, a: a.update(title="%/etc/passwd", synthetic=False)),
        "MONAI would run as code",
    ),
}

RECIPE = {
    "nothing": ({}, "recipe.size is missing"),
    "no size": ({"spacing": 1.3, "percentiles": [1, 99]}, "recipe.size is missing"),
    "no spacing": ({"size": 128, "percentiles": [1, 99]}, "recipe.spacing is missing"),
    "no percentiles": ({"size": 128, "spacing": 1.3}, "recipe.percentiles is missing"),
    "words": (
        {"size": "128", "spacing": 1.3, "percentiles": [1, 99]},
        "recipe.size is '128'; expected a whole number",
    ),
    "no mapping": (["size"], "recipe is ['size']; expected keys and values"),
}
"""What a crafted run says of how its slices were cropped."""
DAMAGED = (
    "aliases that explode",
    "a tag that runs code",
    "a key twice",
    "deep nesting",
    "not UTF-8",
)
CONFIGURATION = {name: YAML[name] for name in DAMAGED}
"""Of the config.yaml of a run that is resumed or verified."""


def as_yaml(values):
    return yaml.safe_dump(values).encode()
