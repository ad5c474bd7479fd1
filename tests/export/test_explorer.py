"""The explorer's folder and server; with `slow` the page itself, in headless Chromium.

The model draws discs of known area, so what the page asks for, draws and measures can be counted.
"""

import base64
import hashlib
import http.client
import io
import json
import math
import re
import socket
import struct
import threading
import time
import zlib
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import browser
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from cardiac_attrivae.attributes import ATTRIBUTES
from cardiac_attrivae.attributes import drawn as drawn_value
from cardiac_attrivae.cli import drawing
from cardiac_attrivae.cli.main import main
from cardiac_attrivae.data.store import SliceDataset, areas
from cardiac_attrivae.export import explorer, explorer_server
from cardiac_attrivae.export.explorer import PAGE, spread, write_explorer
from cardiac_attrivae.export.explorer_server import POLICY, Server
from cardiac_attrivae.heart import MUSCLE_G_PER_ML
from cardiac_attrivae.metrics.calibration import Calibration
from cardiac_attrivae.report.style import grey
from cardiac_attrivae.schema import DataError, LatentTable, Scale
from cardiac_attrivae.segmentation.judge import Segmenter
from cardiac_attrivae.training.config import load_pipeline
from cardiac_attrivae.training.run import Run

pytestmark = pytest.mark.xdist_group("explorer")  # one page for all

NAMES = ("LVEDA", "MEDA", "RVEDV")
SIZE, PIXEL = 64, 0.01  # cm^2
GREYS = {"LV": 0.9, "MYO": 0.3, "RV": 0.6}
HOSTILE = "<img src=x onerror=alert(1)>"
VENDORED = {
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
}
"""SHA-256 of the files as they are in onnxruntime-web 1.30.0 of npm, in dist/."""


class Discs(nn.Module):
    """Draws a cavity of 4 + z0 cm^2, a wall of 4 + z1 / 2 around it, a right ventricle of 5 + z2.

    The fourth dimension makes them brighter, the fifth does nothing.
    """

    def __init__(self):
        super().__init__()
        axis = torch.arange(SIZE) + 0.5
        x, y = axis[None], axis[:, None] - SIZE / 2
        self.left = nn.Parameter(torch.hypot(x - 45, y), requires_grad=False)
        self.right = nn.Parameter(torch.hypot(x - 14, y), requires_grad=False)

    def decode(self, z):
        def inside(distance, area):
            return distance < (area / PIXEL / math.pi).sqrt()[:, None, None]

        cavity, wall, right = 4 + z[:, 0], 4 + z[:, 1] / 2, 5 + z[:, 2]
        picture = torch.where(inside(self.right, right), GREYS["RV"], 0.0)
        picture = torch.where(inside(self.left, cavity + wall), GREYS["MYO"], picture)
        picture = torch.where(inside(self.left, cavity), GREYS["LV"], picture)
        return (picture * (1 + 0.02 * z[:, 3, None, None]))[:, None]

    def encode(self, images):
        counts = [((images - value).abs() < 0.05).sum((1, 2, 3)) for value in GREYS.values()]
        cavity, wall, right = (count * PIXEL for count in counts)
        nothing = torch.zeros(len(images))
        code = torch.stack([cavity - 4, 2 * (wall - 4), right - 5, nothing, nothing], dim=1)
        return code, torch.zeros_like(code)


class Reading(nn.Module):
    """Logits of the labels that the greys stand for."""

    def forward(self, images):
        return -torch.cat([(images - value).abs() for value in (0, *GREYS.values())], dim=1)


def model(folder):
    mean, deviation = [0.1, 0.0, 0.0, 0.0, 0.0], [0.6, 0.6, 0.6, 0.2, 0.5]
    about = {"seed": 3, "train_dataset": "drawn", "code_mean": mean, "code_deviation": deviation}
    return Run(folder, Discs().eval(), load_pipeline("attri_vae_unguided"), about)


def patients(folder, names=None):
    """Slices of 12 patients, the first three of them of another vendor, and their table."""
    z = torch.zeros(12, 5)
    z[:, :3] = torch.rand(12, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = Discs().decode(z)
    labels = Reading()(images).argmax(1, keepdim=True).to(torch.uint8)
    found = areas(labels, Scale(PIXEL))
    columns = dict(zip(("LVEDA", "MEDA", "RVEDA"), found.T, strict=True))
    columns |= {f"{prefix}EDV": 8 * found[:, k] for k, prefix in enumerate(("LV", "M", "RV"))}
    cases = pd.DataFrame(columns)
    cases["case"] = names or [f"patient{k:03d}" for k in range(12)]
    cases["split"], cases["domain"] = "train", "drawn"
    cases["vendor"] = ["Siemens"] * 3 + ["Philips"] * 9
    cases["pathology"] = ["DCM", "NOR"] * 6
    info = {"dataset": "drawn", "recipe": {"spacing": 1.0}, "synthetic": True}
    slices = SliceDataset(images, labels, cases, info, folder)
    codes = Discs().encode(images)[0].numpy()
    known = cases[list(NAMES)].to_numpy()
    return slices, LatentTable(tuple(cases["case"]), codes, known, NAMES, (0, 1, 2))


def written(folder, names=None):
    slices, known = patients(folder, names)
    segmenter = Segmenter(Reading(), {"LV": 0.95, "MYO": 0.9, "RV": 0.93}, 7)
    write_explorer(folder / "page", model(folder), slices, known, segmenter)
    return folder / "page"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return written(tmp_path_factory.mktemp("explorer"))


@pytest.fixture(scope="module")
def data(page):
    return json.loads((page / "data.json").read_text())


@pytest.fixture(scope="module")
def address(page):
    yield from served(page)


def served(page):
    with Server(page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.address
        server.shutdown()


def asked(address, path, **headers):
    """Answer to a path below the address, or to an absolute one that begins with /."""
    place = urlsplit(address)
    with closing(http.client.HTTPConnection(place.hostname, place.port, timeout=10)) as connection:
        path = path if path.startswith("/") else place.path + path
        connection.request("GET", path, headers={"Connection": "close"} | headers)
        answer = connection.getresponse()
        return answer, answer.read()


# The folder ---------------------------------------------------------------------------------------


def test_the_folder_holds_the_page_its_networks_and_nothing_else(page):
    found = {file.relative_to(page).as_posix() for file in page.rglob("*") if file.is_file()}
    copied = {f.relative_to(PAGE).as_posix() for f in PAGE.rglob("*") if f.is_file()}
    assert found == copied | {"data.json", "cases.bin", "decoder.onnx", "segmenter.onnx"}


def test_what_is_vendored_is_what_npm_has_and_its_size_is_told():
    folder, told = PAGE / "onnxruntime-web", Path(__file__).parents[2] / "docs" / "explorer.md"
    for name, digest in VENDORED.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert "v1.30.0" in (folder / "ort.wasm.bundle.min.mjs").read_text()[:100]
    assert "MIT License" in (folder / "LICENSE").read_text()
    size = sum(file.stat().st_size for file in folder.iterdir()) / 2**20
    assert f"onnxruntime-web 1.30.0, {size:.0f} MiB" in told.read_text()


def test_the_lines_of_the_page_are_those_of_the_calibration(data, tmp_path):
    _, known = patients(tmp_path)
    calibration = Calibration.fit(known)
    code = np.full((1, 5), 0.25)
    for k, attribute in enumerate(data["attributes"]):
        assert attribute["name"] == NAMES[k]
        read = attribute["intercept"] + attribute["slope"] * code[0, attribute["dimension"]]
        assert read == pytest.approx(calibration.read(code)[0, k])
        assert (attribute["low"], attribute["high"]) == (calibration.low[k], calibration.high[k])
        within = np.quantile(known.attributes[:, k], (0.01, 0.99))
        assert attribute["usual"] == pytest.approx(within.tolist())
    assert [attribute["unit"] for attribute in data["attributes"]] == ["cm²", "cm²", "mL"]
    assert data["attributes"][0]["slope"] == pytest.approx(1, abs=0.01)  # a cavity of 4 + z0 cm^2


def test_what_the_page_takes_for_ejected_is_what_a_stack_shows_of_it():
    sizes = np.array([120.0, 90, 130, 48, 92, 65])
    found = {name: columns for name in ATTRIBUTES if (columns := explorer._ejected(name))}
    assert {*found} == {"LVEF", "RVEF"}
    for name, (ed, es) in found.items():
        assert 100 * (1 - sizes[es] / sizes[ed]) == pytest.approx(drawn_value(name, sizes, "mL"))
    assert drawn_value("LVM", sizes, "mL") == pytest.approx(MUSCLE_G_PER_ML * sizes[1])


def test_dimensions_without_attribute_come_widest_first(data):
    assert data["free"] == [4, 3]


def test_every_patient_has_code_attributes_and_areas_of_the_mask(data, tmp_path):
    slices, known = patients(tmp_path)
    assert [one["case"] for one in data["cases"]] == slices.cases["case"].tolist()
    for k, one in enumerate(data["cases"]):
        assert one["code"] == pytest.approx(known.codes[k].tolist(), abs=1e-4)
        assert one["values"] == pytest.approx(known.attributes[k].tolist(), abs=1e-4)
        assert one["areas"][0] == pytest.approx(slices.cases["LVEDA"][k], abs=1e-4)
    assert data["patients"] == 12
    assert data["synthetic"] is True
    deviation = np.array(data["code"]["deviation"])
    distance = np.linalg.norm((known.codes - data["code"]["mean"]) / deviation, axis=1)
    assert data["start"] == distance.argmin()


def test_slices_and_masks_are_read_back_as_they_were(page, tmp_path):
    slices, _ = patients(tmp_path)
    stored = np.frombuffer(zlib.decompress((page / "cases.bin").read_bytes()), np.uint8)
    images, labels = stored.reshape(2, len(slices), SIZE, SIZE)
    np.testing.assert_array_equal(images, grey(slices.images[:, 0].numpy()))
    np.testing.assert_array_equal(labels, slices.labels[:, 0].numpy())


def test_the_folder_names_no_place_and_no_date(page):
    ours = [file for file in page.rglob("*") if file.is_file() and "onnxruntime" not in str(file)]
    for file in ours:
        content = file.read_bytes()
        for told in (str(page.parent), str(Path.home()), "/tmp/", "site-packages", ".py"):
            assert told.encode() not in content, (file.name, told)
        if file.suffix != ".bin":
            assert not re.search(rb"20\d\d-[01]\d-[0-3]\d", content), file.name


def test_of_many_patients_some_of_each_group_are_shown():
    cases = pd.DataFrame({"domain": "a", "split": "train", "pathology": ["NOR"] * 20 + ["RV"] * 3})
    rows = spread(cases, 6)
    assert rows.tolist() == [0, 1, 2, 20, 21, 22]
    assert spread(cases, 400).tolist() == list(range(23))


def test_nothing_but_an_explorer_is_replaced(page, tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "_check_inputs", lambda *_: None)
    (tmp_path / "mine.txt").write_text("mine")
    words = ("--model", tmp_path, "--output", tmp_path)
    done = CliRunner().invoke(main, ["explore", *map(str, words)])
    assert done.exit_code == 2
    assert "was not written by cardiac-attrivae explore: it holds mine.txt" in done.stderr
    with pytest.raises(
        DataError, match="was not written by cardiac-attrivae explore: it holds mine.txt"
    ):
        explorer.check_replaceable(tmp_path)
    with pytest.raises(DataError, match="is a file"):
        explorer.check_replaceable(tmp_path / "mine.txt")
    explorer.check_replaceable(page)
    explorer.check_replaceable(tmp_path / "new")
    monkeypatch.setattr("os.access", lambda folder, mode: folder != tmp_path)
    with pytest.raises(DataError, match=f"{tmp_path} may not be written; choose another"):
        explorer.check_replaceable(tmp_path / "new" / "page")


# Who may read it ----------------------------------------------------------------------------------


def test_the_page_loads_nothing_from_elsewhere_and_builds_no_html_of_data():
    html = (PAGE / "index.html").read_text()
    assert f'content="{POLICY}"' in html
    assert not re.search(r"<script(?![^>]* src=)|<style| style=| on\w+=", html)
    for file in PAGE.glob("*.*"):
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//cdn", text), file.name
        if file.suffix == ".js":
            forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\("
            assert not re.search(forbidden, text), file.name


def test_the_server_answers_no_other_host_name(address):
    place = urlsplit(address)
    assert place.hostname == "127.0.0.1"
    for host in (f"localhost:{place.port}", "localhost", "127.0.0.1"):  # as at port 80
        answer, _ = asked(address, "", Host=host)
        assert answer.status == 200
    # a name that somebody else gave the address of this machine
    for host in (f"elsewhere.example:{place.port}", "elsewhere.example", ""):
        answer, body = asked(address, "data.json", Host=host)
        assert answer.status == 403
        assert b"patient0" not in body


def test_the_server_answers_nobody_without_the_token(address):
    token = urlsplit(address).path.strip("/")
    assert len(token) >= 22  # 128 bits
    wrong = "x" * len(token)
    for path in ("/", "/data.json", f"/{wrong}/data.json", f"/{token}data.json",
                 f"/{token}", f"/{token[:-1]}/data.json", f"/{token}%00/data.json"):  # fmt: skip
        answer, body = asked(address, path)
        assert answer.status == 403, path
        assert b"patient0" not in body
    with Server(PAGE) as other:
        assert urlsplit(other.address).path.strip("/") != token


def test_a_browser_that_leaves_in_the_middle_prints_nothing(tmp_path, capfd):
    (tmp_path / "long.wasm").write_bytes(bytes(2**25))
    for address in served(tmp_path):
        place = urlsplit(address)
        with socket.create_connection((place.hostname, place.port)) as browser_:
            browser_.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            browser_.sendall(
                f"GET {place.path}long.wasm HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            )
            browser_.recv(10)
        while any("process_request" in thread.name for thread in threading.enumerate()):
            time.sleep(0.01)
    assert capfd.readouterr().err == ""


def test_a_port_that_cannot_be_opened_is_named(address):
    with pytest.raises(OSError, match=r"port \d+ cannot be opened: .*; choose another one"):
        Server(PAGE, urlsplit(address).port)


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("index.html", "text/html"), ("app.js", "text/javascript"),
        ("onnxruntime-web/ort.wasm.bundle.min.mjs", "text/javascript"),
        ("onnxruntime-web/ort-wasm-simd-threaded.wasm", "application/wasm"),
        ("decoder.onnx", "application/octet-stream"), ("data.json", "application/json"),
    ],
)  # fmt: skip
def test_every_file_is_served_as_what_it_is(address, page, file, kind):
    answer, body = asked(address, file)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith(kind)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"].startswith(POLICY)
    assert body == (page / file).read_bytes()


@pytest.mark.parametrize(
    "path",
    ["onnxruntime-web/", "onnxruntime-web", "../secret", "%2e%2e/secret", "%00", "data.json%00",
     "link", "/etc/passwd", "%2fetc/passwd", "%7f%ff%c0%af", "a" * 5000, "?", "%"],
)  # fmt: skip
def test_nothing_but_the_files_of_the_page_is_served(address, page, path):
    (page.parent / "secret").write_text("secret")
    answer, body = asked(address, path)
    assert answer.status == (403 if path.startswith("/") else 200 if path == "?" else 404)
    assert b"secret" not in body
    assert b"root:" not in body


def test_serve_prints_the_address_and_ends_with_ctrl_c(page, tmp_path, monkeypatch):
    def interrupted(server):
        assert server.server_address[0] == "127.0.0.1"
        raise KeyboardInterrupt

    monkeypatch.setattr(drawing, "_check_inputs", lambda *_: None)
    monkeypatch.setattr(explorer, "explore", lambda *_, **__: explorer.Explorer(page, 12, 2**24))
    monkeypatch.setattr(explorer_server.Server, "serve_forever", interrupted)
    words = ["explore", "--model", str(tmp_path), "--output", str(page), "--serve"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0
    assert "slices of 12 patients: as private as the store" in done.output
    assert re.search(r"Open http://127\.0\.0\.1:\d+/[\w-]{22}/ \(Ctrl-C ends\)", done.output)
    done = CliRunner().invoke(main, words[:-1])
    assert done.exit_code == 0
    assert "To open it, repeat the command with --serve" in done.output


# The page, in a browser ---------------------------------------------------------------------------

READY = "document.body?.dataset.ready"
QUIET = "document.getElementById('areas').ariaBusy === 'false'"


@pytest.fixture
def opened(address):
    if not browser.find():
        pytest.skip("no Chromium or Chrome on the path")
    with browser.Page() as page:
        page.open(address)
        page.until(READY)
        yield page
        assert page.problems == []
        assert all(
            url.startswith("http://127.0.0.1:") for url in page.requests if "blob:" not in url
        )


def drawn(page):
    """Areas of what is drawn, as the table says, (3,)."""
    page.until(QUIET)
    rows = "[...document.querySelector('#areas').rows].map(row => row.cells[3].textContent)"
    return np.array(page.run(rows), float)


def pixels(page, canvas="drawn"):
    """Colours of a canvas, (H, W, 3)."""
    uri = page.run(f"document.getElementById('{canvas}').toDataURL('image/png')")
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def move(page, slider, value):
    page.run(f"""(() => {{ const input = document.getElementById('{slider}');
        input.value = {value}; input.dispatchEvent(new Event('input')); }})()""")


def text(page, selector):
    return page.run(f"document.querySelector('{selector}').textContent")


@pytest.mark.slow
def test_sliders_draw_what_is_asked_for(opened, data):
    before, lit = drawn(opened), (pixels(opened) > 200).sum()
    move(opened, "attribute-LVEDA", 4.9)
    after = drawn(opened)
    assert after[0] == pytest.approx(4.9, abs=0.11)
    assert after[0] > before[0]
    assert after[1:] == pytest.approx(before[1:], abs=0.11)
    assert (pixels(opened) > 200).sum() > lit  # the cavity is the brightest
    assert "asked 4.9 cm², drawn" in text(opened, "#attribute-LVEDA-note")

    # mL, by the keyboard: up is more
    opened.run("document.getElementById('attribute-RVEDV').focus()")
    asked_for = float(opened.run("document.activeElement.value"))
    for _ in range(3):
        opened.press("ArrowRight", 39)
    assert float(opened.run("document.activeElement.value")) == asked_for + 3
    opened.until(QUIET)
    assert drawn(opened)[2] == pytest.approx((asked_for + 3) / 8, abs=0.11)
    assert re.search(r"asked \d+ mL, drawn \d\.\d cm² here", text(opened, "#attribute-RVEDV-note"))

    opened.run("document.getElementById('reset').click()")
    assert drawn(opened) == pytest.approx(before)


@pytest.mark.slow
def test_no_size_below_zero_is_offered_or_shown(opened):
    below = """import('./sliders.js').then(({ attributeSlider }) => {
        const line = { name: 'LVEDA', long: '', kind: 'area', unit: 'cm²', dimension: 0,
            intercept: 20, slope: 1, low: 5, high: 40, usual: [8, 35] };
        const made = attributeSlider(line, [line], [{ code: [-50] }], () => {});
        made.update([-50]);
        made.tell([-50], null, null);
        return [made.input.min, made.box.textContent]; })"""
    low, shown = opened.run(below)
    assert low == "0"
    assert "asked 0.0 cm²" in shown
    assert "−" not in shown.partition("patient")[0]


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 700, 390, 320])
def test_nothing_shifts_while_a_slider_moves_and_no_heading_breaks(address, width):
    if not browser.find():
        pytest.skip("no Chromium or Chrome on the path")
    places = """[...document.querySelectorAll('input, h2, canvas, #areas td')].map((one) => {
        const box = one.getBoundingClientRect();
        return [box.x, box.y, box.width, box.height].map(Math.round).join(); }).join(' ')"""
    with browser.Page(width, 844, phone=width < 500) as page:
        page.open(address)
        page.until(READY)
        before = page.run(places)
        for slider in ("attribute-LVEDA", "attribute-RVEDV", "dimension-4"):
            for end in ("min", "max"):
                move(page, slider, page.run(f"document.getElementById('{slider}').{end}"))
                assert page.run(places) == before, (slider, end)
                page.until(QUIET)
                assert page.run(places) == before, (slider, end)
        assert "no training patient had this" in text(page, "#attribute-LVEDA-note")
        broken = """[...document.querySelectorAll('thead th')].flatMap((cell) => {
            const range = document.createRange();
            return [...cell.textContent].map((_, k) => {
                range.setStart(cell.firstChild, k);
                range.setEnd(cell.firstChild, k + 1);
                return cell.textContent.slice(0, k) + ':' + range.getBoundingClientRect().top;
            }); }).filter((place) => place.startsWith('Original') || place.startsWith('Origina'))"""
        assert len({place.partition(":")[2] for place in page.run(broken)}) == 1


@pytest.mark.slow
def test_original_difference_and_download(opened, data, page, tmp_path):
    original = np.frombuffer(zlib.decompress((page / "cases.bin").read_bytes()), np.uint8)
    original = original.reshape(-1, SIZE, SIZE)[data["start"]]
    np.testing.assert_array_equal(pixels(opened, "compared")[..., 0], original)
    choose = "document.getElementById('beside').value = 'from-start';"
    opened.run(choose + "document.getElementById('beside').dispatchEvent(new Event('change'))")
    assert pixels(opened, "compared").max() == 0  # nothing was moved yet
    move(opened, "attribute-LVEDA", 4.9)
    drawn(opened)
    changed = pixels(opened, "compared")
    assert changed.max() > 100
    assert set(map(tuple, np.argwhere(changed.sum(axis=2)))) <= {
        (y, x) for y in range(SIZE) for x in range(28, SIZE)
    }, "the cavity grew, and so did the ring around it; the right ventricle did not move"

    opened.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    opened.run("document.getElementById('download').click()")
    for _ in range(100):
        if (tmp_path / "heart.png").is_file():
            break
        opened.run("new Promise(resolve => setTimeout(resolve, 50))")
    with Image.open(tmp_path / "heart.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 2 * 640


@pytest.mark.slow
def test_a_point_of_the_map_loads_that_patient_by_mouse_and_by_keyboard(opened, data):
    place = """(() => { const points = document.querySelectorAll('.point');
        points[%d].scrollIntoView({ block: 'center' });
        const box = points[%d].getBoundingClientRect();
        return [box.x + box.width / 2, box.y + box.height / 2]; })()"""
    target = int(np.argmax([one["code"][0] for one in data["cases"]]))
    opened.click(*opened.run(place % (target, target)))
    opened.until(f"document.getElementById('case').value === '{target}'")
    assert drawn(opened) == pytest.approx(data["cases"][target]["areas"], abs=0.06)
    assert text(opened, "#start-name") == f"patient{target:03d}"

    opened.run(f"document.querySelectorAll('.point')[{target}].focus()")
    opened.press("ArrowLeft", 37)
    focused = opened.run("[...document.querySelectorAll('.point')].indexOf(document.activeElement)")
    assert data["cases"][focused]["code"][0] < data["cases"][target]["code"][0]
    opened.press("Enter", 13)
    opened.until(f"document.getElementById('case').value === '{focused}'")
    opened.until(QUIET)

    opened.run("document.getElementById('case').value = ''")
    opened.run("document.getElementById('case').dispatchEvent(new Event('change'))")
    opened.until("document.getElementById('start-name').textContent.startsWith('mean')")
    assert drawn(opened)[0] == pytest.approx(4.1, abs=0.06)
    assert opened.run("document.getElementById('beside').value") == "from-start"


@pytest.mark.slow
def test_everything_has_a_name_and_a_value_with_its_unit(opened):
    nodes = opened.send("Accessibility.getFullAXTree")["nodes"]
    found = {}
    for node in nodes:
        if not node.get("ignored"):
            name = node.get("name", {}).get("value", "")
            found.setdefault(node["role"]["value"], []).append(name)
    for role in ("slider", "combobox", "button", "checkbox", "image"):
        assert all(found[role]), role
    assert len(found["slider"]) == 5
    spoken = [
        opened.run(f"document.getElementById('{name}').getAttribute('aria-valuetext')")
        for name in ("attribute-LVEDA", "attribute-RVEDV", "dimension-4")
    ]
    assert [value.split(" ", 1)[1] for value in spoken] == [
        "square centimetres", "millilitres", "standard deviations",
    ]  # fmt: skip
    opened.until("document.getElementById('spoken').textContent.includes('Left ventricle')")
    assert opened.run("document.getElementById('synthetic').hidden") is False


@pytest.mark.slow
def test_first_picture_within_two_seconds_and_redraws_within_50_ms(opened):
    first, redraws = [], []
    for _ in range(3):  # the best of three: the machine may have other work
        opened.until(READY)
        duration = "performance.getEntriesByName('{}').map(entry => entry.duration)"
        first += opened.run(duration.format("first-picture"))
        opened.run("performance.clearMeasures('redraw')")
        for value in np.linspace(3.2, 4.8, 20):
            move(opened, "attribute-LVEDA", value)
            opened.run("new Promise(resolve => setTimeout(resolve, 20))")
        opened.until(QUIET)
        redraws.append(np.median(opened.run(duration.format("redraw"))))
        if first[-1] < 2000 and redraws[-1] < 50:
            break
        opened.run("location.reload()")
    assert min(first) < 2000
    assert min(redraws) < 50


@pytest.mark.slow
def test_names_are_text_and_a_phone_shows_all(tmp_path):
    if not browser.find():
        pytest.skip("no Chromium or Chrome on the path")
    page = written(tmp_path, names=[f"{HOSTILE}{k}" for k in range(12)])
    for address in served(page):
        with browser.Page(390, 844, dark=True, phone=True) as opened:
            opened.open(address)
            opened.until(READY)
            assert HOSTILE in text(opened, "#start-name")
            assert opened.run("document.images.length") == 0
            assert opened.run("document.documentElement.scrollWidth") <= 390
            dark = opened.run("getComputedStyle(document.body).backgroundColor")
            assert max(map(int, re.findall(r"\d+", dark))) < 60
            assert opened.problems == []
