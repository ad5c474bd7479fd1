"""Nothing that a patient could be known by leaves the source; under pseudonyms not the id either.

What is planted is looked for in every byte that is written, packed or not.
"""

import base64
import gzip
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import socket
import zipfile
from contextlib import suppress
from pathlib import Path

import faults
import nibabel
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import trained
from dicoms import save_cine
from PIL import Image
from scans import by_brightness, heart

from cardiac_attrivae.cli.main import main
from cardiac_attrivae.data import images as volumes
from cardiac_attrivae.data import preprocess as module
from cardiac_attrivae.data import store_writer, transforms
from cardiac_attrivae.data.cases import Cases, Skipped, find_cases
from cardiac_attrivae.data.manifest import load_manifest, parse_manifest
from cardiac_attrivae.data.phantom import MNMS_CSV
from cardiac_attrivae.data.preprocess import preprocess
from cardiac_attrivae.data.pseudonyms import (
    REASONS,
    fixed_reason,
    pseudonym,
    pseudonymised,
    read_key,
)
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.evaluation.cross_domain import cross_domain_eval
from cardiac_attrivae.evaluation.generation import generate, traverse
from cardiac_attrivae.report.page import write_report
from cardiac_attrivae.runtime.folders import LOCK
from cardiac_attrivae.runtime.messages import without_folder
from cardiac_attrivae.schema import DataError
from cardiac_attrivae.segmentation.scans import ScanSegmenter

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
ACDC, MNMS, OWN = load_manifest("acdc"), load_manifest("mnms"), parse_manifest(faults.OWN, "own")

PERSON = ("Mustermann", "Erika", "1957-03-12", "12.03.1957", "19570312", "2011-02-03")
"""Name, birth and scan of a patient, as headers, tables, file names and folders spell them."""
BODY = ("987.654321", "876.543219")  # Height and Weight of Info.cfg
DESIGN = [
    "case",
    "dataset",
    "split",
    "domain",
    "vendor",
    "centre",
    "pathology",
    "phase",
    "frame",
    "slice_index",
    "spacing_x_mm",
    "spacing_y_mm",
    "spacing_z_mm",
    "rotation_deg",
    "mask_source",
    "LVEDV",
    "MEDV",
    "RVEDV",
    "LVEDA",
    "MEDA",
    "RVEDA",
]

ALLOWED = {
    # the run's own folder tells where its data lie, so that generate and traverse find them; what
    # is made of a run does not say it on
    "run/summary.json": "path",
    # TensorBoard names its files by the machine
    "run/tensorboard": "machine",
}


# A tree with a person in it, and all that is made of it -------------------------------------------


def plant(file):
    """Says who the patient is wherever a NIfTI file can hold it."""
    image = nibabel.load(file)
    image = nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
    header = image.header
    header["descrip"], header["aux_file"] = b"Erika Mustermann 1957-03-12", b"Mustermann 19570312"
    header["db_name"], header["intent_name"] = b"Mustermann", b"Erika 1957-03-12"
    for code, text in (
        ("comment", b"Erika Mustermann"),
        (2, b"\x10\0\x10\0PN\x10\0Mustermann^Erika"),
    ):
        header.extensions.append(nibabel.nifti1.Nifti1Extension(code, text))
    packed = io.BytesIO()
    with gzip.GzipFile("Mustermann_Erika.nii", "wb", 1, packed, mtime=1296691200) as stream:
        stream.write(image.to_bytes())
    file.write_bytes(packed.getvalue())


@pytest.fixture(scope="module")
def person(acdc_tree, mnms_tree, tmp_path_factory):
    """Folder ``Erika Mustermann`` with ACDC and M&Ms phantoms that tell of her."""
    home = tmp_path_factory.mktemp("privacy") / "Erika Mustermann 1957-03-12"
    for tree in (acdc_tree, mnms_tree):
        shutil.copytree(tree, home / tree.name)
    old, new = (home / "acdc/training" / case for case in ("patient004", "Mustermann_Erika"))
    old.rename(new)
    for file in new.glob("patient004*"):
        file.rename(new / file.name.replace(old.name, new.name))
    for info in home.glob("acdc/*/*/Info.cfg"):
        said = info.read_text().splitlines()
        said = [line for line in said if not line.startswith(("Height", "Weight"))]
        said += [f"Height: {BODY[0]}", f"Weight: {BODY[1]}", "Name: Mustermann^Erika"]
        info.write_text("\n".join([*said, "Birth: 1957-03-12", "Scanned: 2011-02-03"]))
    for file in (*home.glob("acdc/*/*/*frame01*"), *home.glob("mnms/**/*_sa*")):
        plant(file)
    table = pd.read_csv(home / "mnms" / MNMS_CSV, dtype=str, keep_default_na=False)
    table = table.assign(Name="Mustermann, Erika", Birth="12.03.1957", Height=BODY[0])
    table.to_csv(home / "mnms" / MNMS_CSV, index=False)
    (home / "acdc/training/patient001/Mustermann_Erika_report.pdf").write_text("1957-03-12")
    broken = home / "acdc/testing/patient101/patient101_frame01_gt.nii.gz"
    broken.write_bytes(broken.read_bytes()[:99])
    return home


@pytest.fixture(scope="module")
def ids(person):
    return {folder.name for half in (person / "acdc").iterdir() if half.is_dir()
            for folder in half.iterdir() if folder.is_dir()}  # fmt: skip


@pytest.fixture(scope="module")
def made(person, ids, hasty_segmenters):
    """Folder with stores, run, evaluation, report and drawn hearts; what preprocess printed; the
    captions of its contact sheet."""
    folder = person.parent / "made"
    folder.mkdir()
    key = person / "secret.key"
    key.write_bytes(KEY)
    captions = []
    read, sheet = volumes.read_volume, store_writer.contact_sheet

    def volume(file, frame):
        if "patient102" in file.name:
            raise RuntimeError(f"no codec in {file.parent} for patient102, see {file}, /usr/lib/x")
        return read(file, frame)

    def drawn(images, labels, texts, path, **more):
        if not captions:
            captions.extend(texts)
        sheet(images, labels, texts, path, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(volumes, "read_volume", volume)
        patch.setattr(store_writer, "contact_sheet", drawn)
        for name in ("USER", "LOGNAME"):
            patch.setenv(name, "planted-user")
        patch.setattr(socket, "gethostname", lambda: "planted-host")
        words = ("preprocess", "--dataset", "acdc", "--source", person / "acdc")
        output = ("--output", folder / "hidden", "--pseudonymise", key)
        printed = CliRunner().invoke(main, [str(word) for word in (*words, *output)])
        assert printed.exit_code == 0, printed.output
        preprocess(ACDC, person / "acdc", folder / "open")
        preprocess(MNMS, person / "mnms", folder / "mnms")
        run = trained(folder / "hidden", folder / "run")
        options = {"split": "train", "device": "cpu", "rounds": 5}
        cross_domain_eval([run], [folder / "hidden"], folder / "evaluation", **options)
        write_report([folder / "evaluation"], folder / "report")
        case = captions[0].partition(" ")[0]
        generate(run, {"LVEDA": 20.0}, folder / "generated", case=case, device="cpu")
        traverse(run, folder / "traversed", case=case, device="cpu", steps=2)
    return folder, printed.output, captions


def unpacked(name, data):
    """The bytes of a file, and those that are packed in it, each with a name."""
    yield name, name.encode() + b"\n" + data
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.namelist():
                yield from unpacked(f"{name}:{member}", archive.read(member))
    elif data[:2] == b"\x1f\x8b":
        with suppress(EOFError):  # cut off on purpose
            yield from unpacked(f"{name}:gunzip", gzip.decompress(data))
    elif data[:4] in (b"\x89PNG", b"GIF8", b"RIFF"):
        with Image.open(io.BytesIO(data)) as picture:
            yield f"{name}:text", repr((picture.info, dict(picture.getexif()))).encode()
    elif name.endswith(".html"):
        for n, packed in enumerate(re.findall(rb"base64,([\w+/=]+)", data)):
            yield from unpacked(f"{name}:{n}", base64.b64decode(packed))


def written(folder):
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield from unpacked(file.relative_to(folder).as_posix(), file.read_bytes())


def found(folder, words):
    """Where words stand, whatever their case."""
    words = {word: word.lower().encode() for word in words}
    return {
        (name, word)
        for name, data in written(folder)
        for lower in [data.lower()]
        for word, wanted in words.items()
        if wanted in lower
    }


def test_the_search_finds_what_is_planted(person, tmp_path):
    there = {name.partition(":")[0] for name, _ in found(person, PERSON)}
    assert len(there) > 40
    inside = {name for name, _ in found(person, ["Mustermann"]) if name.endswith("gunzip")}
    assert inside
    for ending in ("png", "webp", "gif"):
        exif = Image.Exif()
        exif[0x010E] = "Mustermann"
        Image.new("RGB", (2, 2)).save(tmp_path / f"x.{ending}", exif=exif, comment="Mustermann")
        assert found(tmp_path, ["Mustermann"])
        (tmp_path / f"x.{ending}").unlink()
    np.savez_compressed(tmp_path / "x.npz", name=np.array(b"Mustermann"))
    assert found(tmp_path, ["Mustermann"])


def test_nothing_of_the_person_is_in_anything_that_is_made(made):
    folder = made[0]
    assert {file.name for file in folder.iterdir()} == {
        "hidden", "open", "mnms", "run", "evaluation", "report", "generated", "traversed",
    }  # fmt: skip
    leaked = found(folder, [*PERSON, *BODY])
    # where no pseudonyms were asked for, the ids of the source are those of the store
    own = ("Mustermann", "Erika")
    assert {(n, w) for n, w in leaked if not (n.startswith("open/") and w in own)} == set()
    ids = pd.read_csv(folder / "open/cases.csv")["case"]
    assert (ids == "Mustermann_Erika").sum() == 1


def test_nothing_tells_of_this_machine(made):
    folder = made[0]
    machine = ["planted-host", "planted-user", socket.gethostname(), str(Path.home())]
    machine = [word for word in machine if len(word) > 4]  # shorter ones stand anywhere by chance
    places = [folder.parent.as_posix(), str(Path(__file__).parent.parent)]
    leaked = {(name, "path") for name, _ in found(folder, places)}
    leaked |= {(name, "machine") for name, _ in found(folder, machine)}
    excused = {(n, kind) for n, kind in leaked for place, k in ALLOWED.items()
               if n.startswith(place) and k == kind}  # fmt: skip
    assert leaked - excused == set()
    assert all(any(n.startswith(place) for n, _ in excused) for place in ALLOWED)
    assert not list(folder.rglob(LOCK))


def test_under_pseudonyms_no_id_of_the_source_is_left(made, ids):
    folder, printed, captions = made
    assert len(ids) == 9
    hidden_parts = [folder / name for name in ("hidden", "generated", "traversed", "report")]
    for part in (*hidden_parts, folder / "run", folder / "evaluation"):
        assert found(part, [*ids, KEY.hex(), "secret.key"]) == set()
        assert not any(KEY in data for _, data in written(part))
    for word in (*ids, *PERSON, "secret.key"):
        told = printed.replace(str(folder), "")
        assert word not in told
        assert word not in " ".join(captions)
    assert len(captions) == 7


def test_reasons_tell_what_is_wrong_and_nothing_else(made):
    folder = made[0]
    reasons = dict(pd.read_csv(folder / "hidden/skipped.csv").itertuples(index=False))
    assert reasons == {
        pseudonym(KEY, "acdc", "patient101"): "a file cannot be read",
        pseudonym(KEY, "acdc", "patient102"): "an unexpected RuntimeError",
    }
    plain = dict(pd.read_csv(folder / "open/skipped.csv").itertuples(index=False))
    assert plain["patient102"] == (
        "RuntimeError: no codec in ... for patient102, see patient102_frame01.nii.gz, x"
    )


def test_files_that_are_drawn_have_headers_of_their_own(made):
    files = [*made[0].glob("*/*.nii.gz")]
    assert len(files) == 5
    for file in files:
        assert file.read_bytes()[3:8] == bytes(5)  # no file name in the gzip, no time
        header = nibabel.load(file).header
        assert not header.extensions
        for name in ("descrip", "aux_file", "db_name", "intent_name", "data_type"):
            assert header[name].item() == b""


def test_the_columns_of_a_store_are_those_of_the_design(made):
    folder = made[0]
    for name in ("open", "hidden", "mnms"):
        assert (
            list(pd.read_csv(folder / name / "cases.csv")) == DESIGN == list(store_writer.columns())
        )
        assert list(pd.read_csv(folder / name / "skipped.csv")) == ["case", "reason"]
    told = {name: json.loads((folder / name / "dataset.json").read_text())["pseudonymised"]
            for name in ("open", "hidden", "mnms")}  # fmt: skip
    assert told == {"open": False, "hidden": True, "mnms": False}


def test_pseudonyms_change_nothing_but_ids_and_order(made):
    opened, under = (SliceDataset.open(made[0] / name) for name in ("open", "hidden"))
    names = [pseudonym(KEY, "acdc", case) for case in opened.cases["case"]]
    order = np.argsort(names)
    assert list(under.cases["case"]) == sorted(names)
    same = opened.take(order)
    facts = [column for column in DESIGN if column != "case"]
    pd.testing.assert_frame_equal(under.cases[facts], same.cases[facts])
    assert (under.images == same.images).all()
    assert (under.measured(["LVEDV"]) == same.measured(["LVEDV"])).all()


# Pseudonyms ---------------------------------------------------------------------------------------


def test_a_pseudonym_is_an_hmac_of_data_set_and_id():
    # the definition of HMAC, RFC 2104, by hand
    block = KEY.ljust(64, b"\0")
    inner, outer = (bytes(byte ^ pad for byte in block) for pad in (0x36, 0x5C))
    digest = hashlib.sha256(inner + "acdc\0Müller".encode()).digest()
    digest = hashlib.sha256(outer + digest).hexdigest()
    assert pseudonym(KEY, "acdc", "Müller") == f"case-{digest[:12]}"


def test_another_key_or_data_set_gives_others_and_none_occurs_twice():
    cases = [f"patient{n:03d}" for n in range(2000)]
    drawn = [{pseudonym(key, name, case) for case in cases}
             for key, name in ((KEY, "acdc"), (OTHER, "acdc"), (KEY, "mnms"))]  # fmt: skip
    assert len(set.union(*drawn)) == 6000
    assert all(re.fullmatch("case-[0-9a-f]{12}", name) for name in drawn[0])


def test_two_cases_of_one_pseudonym_are_refused(monkeypatch):
    monkeypatch.setattr("cardiac_attrivae.data.pseudonyms.DIGITS", 1)
    cases = Cases([], [Skipped(f"p{n}", "empty") for n in range(17)])
    with pytest.raises(DataError, match="two cases have the same pseudonym; use another key"):
        pseudonymised(cases, OWN, KEY)


@pytest.mark.parametrize("name", faults.KEYS)
def test_a_key_that_is_none_is_refused_and_it_is_said_how_to_make_one(tmp_path, name):
    damage, outcome = faults.KEYS[name]
    file = tmp_path / "store" / "key" if "store" in name else tmp_path / "key"
    file.parent.mkdir(exist_ok=True)
    damage(file)
    with pytest.raises(ValueError, match=re.escape(outcome)) as error:
        read_key(file, tmp_path / "store")
    if "store" not in name:
        assert "head -c 32 /dev/urandom > key" in str(error.value)
        program = re.search(r'python -c "(.*)"', str(error.value))[1]
        shutil.rmtree(file, ignore_errors=True)
        before = Path.cwd()
        os.chdir(tmp_path)
        try:
            exec(program)  # what a user is told to type
        finally:
            os.chdir(before)
        assert len(read_key(file, tmp_path / "store")) == 32


PLANTED = {
    "a quoted cell with doubled backslashes": {"mask": "..\\Mustermann\\x.nii.gz"},
    "a path that climbs out": {"mask": "../Mustermann_Erika/x.nii.gz"},
    "a cell that is shortened": {"ED": "Erika" + "x" * 60 + "Mustermann"},
    "an id in other letters": {"image": "P2_MUSTERMANN/image.nii.gz"},
    "a split": {"split": "Mustermann"},
    "a file that is missing": {"mask": "Erika Mustermann.nii.gz"},
    "a file that is no image": {"image": "cases.csv"},
}
"""Cells of a table by which a reason could name a patient."""


@pytest.mark.parametrize("name", PLANTED)
def test_with_a_key_no_cell_of_a_table_stands_in_a_reason(own, tmp_path, name):
    facts = ("case", "image", "mask", "ED", "split")
    rows = [f"{case},a/{case}/image.nii.gz,a/{case}/mask.nii.gz,0,train".split(",")
            for case in ("p1", "p2_mustermann")]  # fmt: skip
    (own / "a/p2").rename(own / "a/p2_mustermann")
    changed = dict(zip(facts, rows[1], strict=True)) | PLANTED[name]
    table = pd.DataFrame([dict(zip(facts, rows[0], strict=True)), changed])
    table.to_csv(own / "cases.csv", index=False)
    lists = {k: v for k, v in faults.OWN.items() if k not in ("image", "mask", "constants")}
    manifest = parse_manifest(
        {**lists, "folders": {".": "column"}, "table": ["cases.csv"],
         "columns": {fact: fact for fact in facts}}, "own",
    )  # fmt: skip
    summary = preprocess(manifest, own, tmp_path / "s", key=KEY)
    ((case, reason),) = summary.skipped
    assert case == pseudonym(KEY, "own", "p2_mustermann")
    assert reason in {*REASONS.values(), fixed_reason("")}
    words = ["Mustermann", "mustermann", "MUSTERMANN", "Erika", "image.nii", "p2_"]
    assert found(tmp_path / "s", words) == set()


FIXED = {
    "p7_gt.nii.gz is missing": "a file is missing",
    "no mask: sub007_seg_007.nii is missing": "no mask, or an empty one",
    "the table has 7 rows for it, and they differ": "the table has no row for it, or several that",
    "ED is 'Jo'; expected a whole number": "its frame of ED or ES is not given, or impossible",
    "Jo.nii cannot be read: Jo": "a file cannot be read",
    "Jo.nii cannot be read: it is no NIfTI file; and of DICOM the folder": "a file cannot be read",
    "KeyError: 'Jo'": "it cannot be used; the command check says why",
}


@pytest.mark.parametrize("reason", FIXED)
def test_a_reason_is_told_in_fixed_words(reason):
    assert fixed_reason(reason).startswith(FIXED[reason])


def test_what_is_told_of_an_error_has_no_folder(tmp_path, monkeypatch):
    source = tmp_path / "Erika Mustermann" / "data"
    source.mkdir(parents=True)
    (tmp_path / "link").symlink_to(source)
    monkeypatch.chdir(source.parent)
    for file in (source / "x.nii", tmp_path / "link" / "x.nii", Path("data/x.nii")):
        for told in (file, file.parent, file.resolve(), file.absolute().parent.parent):
            error = RuntimeError(f"cannot read '{told}' of /opt/some/lib.py, 1/2 and/or 3")
            text = without_folder(error, file)
            assert "Mustermann" not in text
            assert tmp_path.name not in text
            assert text.endswith("of lib.py, 1/2 and/or 3")
    assert without_folder(OSError(5, "bad", str(source / "x.nii"))) == "x.nii: bad"


# Stores under pseudonyms --------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path):
    for n, case in enumerate(("p1", "p2", "p3", "p4")):
        voxels = np.random.default_rng(n).integers(20, 900, faults.SHAPE).astype(np.int16)
        faults.save(tmp_path / "own/a" / case / "image.nii.gz", voxels)
        faults.save(tmp_path / "own/a" / case / "mask.nii.gz", faults.heart())
    return tmp_path / "own"


def test_the_key_does_not_lie_in_the_store(own, tmp_path):
    (tmp_path / "own.yaml").write_text(json.dumps(faults.OWN))
    (tmp_path / "key").write_bytes(KEY)
    words = ["preprocess", "--dataset", tmp_path / "own.yaml", "--source", own, "--output"]
    with pytest.raises(ValueError, match="which it protects"):
        read_key(tmp_path / "key", tmp_path)
    for output, told in ((tmp_path, "holds key, own, own.yaml"), (tmp_path / "s", "")):
        words = [*words[:6], output, "--overwrite", "--pseudonymise", tmp_path / "key"]
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert result.exit_code == (2 if told else 0)
        assert told in result.stderr
        assert (tmp_path / "key").read_bytes() == KEY
    assert len(cases_of(tmp_path / "s")) == 4


def cases_of(store):
    return list(pd.read_csv(store / "cases.csv")["case"])


def test_a_joined_store_of_pseudonyms_and_its_run_tell_no_id(made, person, ids, tmp_path):
    """Of two data sets with one key."""
    preprocess(MNMS, person / "mnms", tmp_path / "other", key=KEY)
    words = ("join", made[0] / "hidden", tmp_path / "other", "--output", tmp_path / "both")
    printed = CliRunner().invoke(main, [str(word) for word in words])
    assert printed.exit_code == 0, printed.output
    trained(tmp_path / "both", tmp_path / "run")
    known = {*ids, *(record.case for record in find_cases(MNMS, person / "mnms").records)}
    shutil.rmtree(tmp_path / "other")
    leaked = found(tmp_path, [*PERSON, *BODY, *known, str(person)])
    assert {(n, w) for n, w in leaked if not n.startswith("run/tensorboard")} == set()
    assert not [word for word in (*PERSON, *known) if word in printed.output]


@pytest.fixture
def scans(tmp_path):
    """The same heart in every kind of file, with a person in each header and folder; one of each
    kind is damaged."""
    import SimpleITK

    _, picture = heart()
    cine = (1000 * np.stack([picture, picture], -1)).astype(np.int16)
    folder = tmp_path / "Erika Mustermann 1957-03-12"
    folder.mkdir()
    nibabel.save(nibabel.Nifti1Image(cine, np.diag([1.5, 1.5, 8, 1])), folder / "a.nii.gz")
    plant(folder / "a.nii.gz")
    image = SimpleITK.GetImageFromArray(picture.T)
    image.SetSpacing((1.5, 1.5, 8))
    for key in ("PatientName", "0010|0010", "ITK_FileNotes", "Comment"):
        image.SetMetaData(key, "Mustermann^Erika 19570312")
    for name in ("b.nrrd", "c.mha"):
        SimpleITK.WriteImage(image, folder / name)
        damaged = (folder / name).read_bytes()
        (folder / f"damaged_{name}").write_bytes(damaged.replace(b"16 ", b"x6 ")[:-99])
    nrrd = (folder / "b.nrrd").read_bytes()
    assert b"Mustermann" in nrrd
    elsewhere = nrrd.replace(b"encoding:", b"data file: /home/Mustermann/x.raw\nencoding:")
    (folder / "elsewhere.nrrd").write_bytes(elsewhere)
    (folder / "damaged_a.nii.gz").write_bytes((folder / "a.nii.gz").read_bytes()[:999])

    def secret(header, *_):
        header.PatientName, header.PatientBirthDate = "Mustermann^Erika", "19570312"

    save_cine(folder / "cines" / "d", cine, (1.5, 1.5, 8.0), change=secret)
    save_cine(folder / "cines" / "damaged_d", cine[..., :2, :], (1.5, 1.5, 8.0), change=secret)
    (folder / "cines" / "damaged_d" / "00_00.dcm").write_bytes(b"Mustermann")
    return [*(path for path in sorted(folder.iterdir()) if path.is_file()), folder / "cines"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command", ["segment", "encode"])
def test_of_new_scans_nothing_of_a_header_or_folder_is_told(
    command, scans, made, tmp_path, monkeypatch
):
    fake = ScanSegmenter("fake", [by_brightness])
    monkeypatch.setattr("cardiac_attrivae.segmentation.scans.load_segmenter", lambda model: fake)
    monkeypatch.setattr(
        "cardiac_attrivae.evaluation.encoding_batch.load_segmenter", lambda model: fake
    )
    words = [command, "--output", tmp_path / "out", *(w for s in scans for w in ("--source", s))]
    words += ["--model", made[0] / "run"] if command == "encode" else []
    printed = CliRunner().invoke(main, [str(word) for word in words])
    assert printed.exit_code == 0, printed.output
    assert {*pd.read_csv(tmp_path / "out/skipped.csv").iloc[:, 0]} == {
        "damaged_a", "damaged_b", "damaged_c", "damaged_d", "elsewhere",
    }  # fmt: skip
    assert found(tmp_path / "out", PERSON) == set()
    told = [line for line in printed.output.splitlines() if not line.startswith("Next:")]
    assert not [line for line in told if any(word in line for word in PERSON)]


def test_stores_of_one_key_can_be_joined(own, tmp_path):
    preprocess(OWN, own, tmp_path / "one", key=KEY)
    shutil.rmtree(own / "a/p2")
    preprocess(OWN, own, tmp_path / "two", transforms.Recipe(slice="all"), key=KEY)
    assert set(cases_of(tmp_path / "two")) == {pseudonym(KEY, "own", f"p{n}") for n in (1, 3, 4)}
    assert set(cases_of(tmp_path / "one")) - set(cases_of(tmp_path / "two")) == {
        pseudonym(KEY, "own", "p2")
    }


class Killed(BaseException):
    pass


def killed_after(count):
    def progress(items, _):
        yield from itertools.islice(items, count)
        raise Killed

    return progress


def test_a_run_goes_on_with_its_key_and_never_with_another(own, tmp_path, monkeypatch):
    output, partial = tmp_path / "s", tmp_path / ".s.partial"
    worked = []
    real = module.process_case

    def counted(record, transform):
        worked.append(record.case)
        return real(record, transform)

    monkeypatch.setattr(module, "process_case", counted)
    with pytest.raises(Killed):
        preprocess(OWN, own, output, key=KEY, progress=killed_after(2))
    left = [file for file in partial.rglob("*") if file.is_file()]
    assert len(left) >= 2
    text = {w for _, w in found(partial, ["own/a", KEY.hex(), str(tmp_path)])}
    assert text == set()
    for case in ("p1", "p2", "p3", "p4"):
        plain = hashlib.sha256(case.encode()).hexdigest()[:16]
        assert not any(plain in str(file) for file in left)
    records = find_cases(OWN, own).records  # of the same cases, nobody can make it without the key
    keyed = {module._fingerprint(transforms.Recipe(), OWN, records, key) for key in (KEY, OTHER)}
    assert len(keyed) == 2
    worked.clear()
    preprocess(OWN, own, output, key=KEY)
    assert len(worked) == 2
    with pytest.raises(Killed):
        preprocess(OWN, own, output, key=KEY, progress=killed_after(2), overwrite=True)
    worked.clear()
    preprocess(OWN, own, output, key=OTHER, overwrite=True)
    assert cases_of(output) == sorted(pseudonym(OTHER, "own", f"p{n}") for n in range(1, 5))
    assert len(worked) == 4
    with pytest.raises(Killed):
        preprocess(OWN, own, output, key=OTHER, progress=killed_after(2), overwrite=True)
    preprocess(OWN, own, output, overwrite=True)
    assert cases_of(output) == ["p1", "p2", "p3", "p4"]


def test_splits_and_duplicates_go_by_the_ids_of_the_source(own, tmp_path):
    manifest = parse_manifest(
        {
            **faults.OWN,
            "hold_out": {"salt": "x", "val": 0.3, "test": 0.3},
            "duplicates": [["p1", "p3"]],
        },
        "own",
    )
    preprocess(manifest, own, tmp_path / "s", key=KEY, without_duplicates=True)
    plain = {record.case: record.split for record in find_cases(manifest, own).records}
    rows = pd.read_csv(tmp_path / "s/cases.csv").set_index("case")["split"]
    kept, lost = ("p1", "p3") if pseudonym(KEY, "own", "p1") in rows else ("p3", "p1")
    del plain[lost]
    assert rows.to_dict() == {pseudonym(KEY, "own", case): s for case, s in plain.items()}
    ((case, reason),) = pd.read_csv(tmp_path / "s/skipped.csv").itertuples(index=False)
    assert case == pseudonym(KEY, "own", lost)
    there = pseudonym(KEY, "own", kept)
    assert reason == f"same scan as {there} ({plain[kept]}), kept there"


# Names that are code ------------------------------------------------------------------------------


HOSTILE = "<script>alert(1)<b>|_$&#%{}~^`*[x](y)"
"""A folder name, and so a case id, as Linux allows it."""


def test_a_case_called_like_code_stays_a_name(own, tmp_path):
    (own / "a/p1").rename(own / "a" / HOSTILE)
    preprocess(OWN, own, tmp_path / "s")
    store = SliceDataset.open(tmp_path / "s")
    assert HOSTILE in set(store.cases["case"])
    assert np.isfinite(store.measured(["LVEDV"])).all()
    name = pseudonym(KEY, "own", HOSTILE)
    (own / "a" / HOSTILE / "mask.nii.gz").unlink()
    preprocess(OWN, own, tmp_path / "under", key=KEY)
    ((case, reason),) = pd.read_csv(tmp_path / "under/skipped.csv").itertuples(index=False)
    assert (case, reason) == (name, "no mask, or an empty one")


@pytest.fixture(scope="module")
def hostile_tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    about = {"model": "m", "seed": 0, "train_dataset": "acdc", "test_dataset": "acdc"}
    rows = [about | {"method": method, "split": "test", "metric": "SCC", "attribute": "mean",
                     "value": 0.5 + 0.1 * n, "n": 50}
            for n, method in enumerate((HOSTILE, "two\nlines"))]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "metrics.csv", index=False)
    (folder / "evaluation.json").write_text(json.dumps({"notes": [HOSTILE]}))
    write_report([folder], folder / "report")
    return folder / "report"


def test_names_break_no_markdown_table_and_open_no_tag(hostile_tables):
    text = (hostile_tables / "table.md").read_text()
    assert not re.search(r"(?<!\\)<", text)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows[:5]}) == 1
    assert any("two lines" in row for row in rows)


def test_names_are_no_latex(hostile_tables):
    text = (hostile_tables / "table.tex").read_text()
    row = next(line for line in text.splitlines() if line.startswith("<script>"))
    name = row.partition(" & ")[0]
    assert r"\_\$\&\#\%\{\}\textasciitilde{}\textasciicircum{}" in name


def test_names_open_no_tag_on_the_page(hostile_tables):
    page = (hostile_tables / "index.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_where_weights_lie_is_not_told_with_a_score():
    from types import SimpleNamespace

    from cardiac_attrivae.evaluation.cross_domain import _about_model
    from cardiac_attrivae.training.config import load_pipeline

    pipeline = load_pipeline(
        "attri_sivae_acdc", ["objective.perceptual_weights=/home/erika/vgg19.pth"]
    )
    about = {"seed": 0, "train_dataset": "acdc"}
    run = SimpleNamespace(
        pipeline=pipeline, about=about, summary={"store": "/x/y"}, folder=Path("runs/one")
    )
    told = _about_model(run, "attri_sivae")
    assert told["pipeline"]["objective"]["perceptual_weights"] == "vgg19.pth"
    assert "/" not in json.dumps(told["summary"])
