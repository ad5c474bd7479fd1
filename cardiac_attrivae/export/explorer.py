"""The explorer: a page on which sliders turn the dimensions of a model and the heart is redrawn.

What is written is a folder of plain files that any web server can hand out: the page, the decoder
and a segmenter as ONNX, onnxruntime-web to run them in the browser, and what is known of the model
and of its patients. It holds their slices, so it is as private as the store.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..attributes import ATTRIBUTES
from ..data.store import SliceDataset
from ..evaluation.aiming import REACH
from ..evaluation.studio import open_trained
from ..metrics.calibration import Calibration
from ..report.style import COLOURS, SYMBOLS, grey
from ..runtime.device import find_device
from ..runtime.files import atomic_folder, write
from ..runtime.folders import is_empty
from ..schema import HEART, DataError, LatentTable, Structure
from ..segmentation.judge import Segmenter, areas, cache_of, segmenters_for
from ..training.run import Run, encode
from .formats import Part, examples, write_module

PAGE = Path(__file__).parent / "templates" / "explorer"
"""What comes along: the page, and onnxruntime-web as its npm package has it."""

MOST_CASES = 400
"""Patients on the page; of more, `spread` takes some of each group."""

TITLES = {
    Structure.LV: "Left ventricle",
    Structure.MYO: "Myocardium",
    Structure.RV: "Right ventricle",
}

POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; "
    "connect-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'"
)
"""Content-Security-Policy: nothing is loaded from elsewhere. The page says the same of itself."""

HOST = "127.0.0.1"


class Explorer(NamedTuple):
    """What was written: the folder, patients with their slices in it, and its size in bytes."""

    folder: Path
    cases: int
    size: int


def explore(
    run: str | Path,
    output: str | Path,
    *,
    store: str | Path | None = None,
    device: str = "auto",
    tell: Callable[[str], None] = lambda message: None,
) -> Explorer:
    """Writes the explorer of a model as a whole; one that is there already is replaced.

    Args:
        run: Folder that ``train`` wrote.
        output: Folder to write.
        store: Folder that ``preprocess`` wrote; None is the one that the run was trained on.
        device: See `find_device`.
        tell: Called with a message before something takes minutes.

    Raises:
        DataError: If the output holds something else, the store is gone or does not fit the model,
            or the packages that write ONNX are missing.
    """
    output = Path(output)
    check_replaceable(output)
    model, slices, known = open_trained(run, store, device)
    where = find_device(device)
    cache = cache_of(slices, model.folder)
    (segmenter,) = segmenters_for(slices, cache, device=where, tell=tell)
    return write_explorer(output, model, slices.basal(), known, segmenter)


def write_explorer(
    output: Path, run: Run, patients: SliceDataset, known: LatentTable, segmenter: Segmenter
) -> Explorer:
    """Writes the folder, see `explore`.

    Args:
        output: Folder.
        run: The model.
        patients: Slices, one per patient, to start from.
        known: Codes and attributes of the training patients, which the lines are fitted on.
        segmenter: Measures what is drawn.
    """
    shown = patients.take(spread(patients.cases, MOST_CASES))
    device = next(run.network.parameters()).device
    codes = encode(run.network, shown.images.to(device))[0]
    data = described(run, known, segmenter, shown, codes) | {"patients": len(patients)}
    image, z = examples(run)
    with atomic_folder(output) as folder:
        for file in filter(Path.is_file, PAGE.rglob("*")):
            write(folder / file.relative_to(PAGE), file.read_bytes())
        write_module(
            Part(run.network, "decode"), {"z": z}, ["reconstruction"], folder / "decoder.onnx"
        )
        write_module(segmenter.network, {"image": image}, ["logits"], folder / "segmenter.onnx")
        write(folder / "cases.bin", packed(shown))
        write(folder / "data.json", json.dumps(data, allow_nan=False))
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Explorer(output, len(shown), size)


def check_replaceable(folder: Path) -> None:
    """Raises a DataError if a folder holds anything but an explorer: that would be removed."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; choose another folder")
    ours = ("index.html", "data.json", "decoder.onnx")
    if folder.is_dir() and not is_empty(folder) and not all((folder / f).is_file() for f in ours):
        raise DataError(f"{folder} is not empty and holds no explorer; choose another folder")


def spread(cases: pd.DataFrame, most: int) -> np.ndarray:
    """Rows of at most so many patients: in turn one of each domain, diagnosis and split.

    Args:
        cases: A row per patient, with domain, pathology and split.
        most: How many.

    Returns:
        Rows in their order, (min(N, most),).
    """
    turn = cases.groupby(["domain", "pathology", "split"], dropna=False).cumcount().to_numpy()
    return np.sort(np.argsort(turn, kind="stable")[:most])


def packed(slices: SliceDataset) -> bytes:
    """Slices as 8-bit greys, then their labels, (N, H, W) each, deflated."""
    images, labels = grey(slices.images[:, 0].numpy()), slices.labels[:, 0].numpy()
    return zlib.compress(images.tobytes() + labels.tobytes(), 9)


def described(
    run: Run, known: LatentTable, segmenter: Segmenter, shown: SliceDataset, codes: np.ndarray
) -> dict[str, Any]:
    """What the page is told, in plain values: no path, no date, nothing of a header.

    Args:
        run: The model.
        known: Its training patients, which the lines are fitted on.
        segmenter: Measures what is drawn.
        shown: Slices of the patients on the page, one each.
        codes: Of these, (N, D).
    """
    calibration = Calibration.fit(known)
    mean, deviation = (np.asarray(run.about[key]) for key in ("code_mean", "code_deviation"))
    usual = np.percentile(known.attributes, (1, 99), axis=0).T
    attributes = [
        {
            "name": name,
            "long": about.label,
            "unit": SYMBOLS.get(about.unit, about.unit),
            "structure": HEART.index(about.structure),
            "dimension": calibration.dimensions[k],
            "intercept": float(calibration.intercept[k]),
            "slope": float(calibration.slope[k]),
            "low": float(calibration.low[k]),
            "high": float(calibration.high[k]),
            "usual": usual[k].tolist(),
        }
        for k, (name, about) in enumerate((n, ATTRIBUTES[n]) for n in calibration.names)
    ]
    widest = [int(d) for d in np.argsort(-deviation) if d not in calibration.dimensions]
    distance = (((codes - mean) / np.where(deviation > 0, deviation, 1)) ** 2).sum(axis=1)
    facts = shown.cases[["case", "split", "domain", "vendor", "pathology"]].astype(str)
    measured = areas(shown.labels, shown.pixel_cm2)
    return {
        "method": run.pipeline.method,
        "dataset": run.about["train_dataset"],
        "seed": run.about["seed"],
        "synthetic": bool(shown.info.get("synthetic", False)),
        "size": int(shown.images.shape[-1]),
        "pixel_cm2": shown.pixel_cm2,
        "reach": REACH,
        "code": {"mean": mean.tolist(), "deviation": deviation.tolist()},
        "attributes": attributes,
        "free": widest,
        "structures": [
            {"name": s.name, "long": TITLES[s], "colour": "#{:02x}{:02x}{:02x}".format(*COLOURS[s])}
            for s in HEART
        ],
        "segmenter": {"dice": segmenter.dice, "patients": segmenter.patients},
        "start": int(distance.argmin()),
        "cases": [
            fact | {"code": rounded(code), "values": rounded(values), "areas": rounded(found)}
            for fact, code, values, found in zip(
                facts.to_dict("records"),
                codes,
                shown.attributes(calibration.names),
                measured,
                strict=True,
            )
        ],
    }


def rounded(values: np.ndarray) -> list[float]:
    """To four decimals: a code is of the order of 1, an area is known to .02 cm^2."""
    return np.asarray(values, dtype=float).round(4).tolist()


class _Handler(SimpleHTTPRequestHandler):
    """Hands out the files of a folder, to this machine alone."""

    protocol_version = "HTTP/1.1"
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm",
        ".onnx": "application/octet-stream", ".txt": "text/plain; charset=utf-8",
    }  # fmt: skip

    def send_head(self) -> Any:
        # a page elsewhere may give its own name the address of this machine, and then read along
        if self.headers.get("Host", "").rpartition(":")[0] not in (HOST, "localhost"):
            self.send_error(HTTPStatus.FORBIDDEN, "asked for under another name")
            return None
        return super().send_head()

    def list_directory(self, path: Any) -> None:
        self.send_error(HTTPStatus.NOT_FOUND)

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", f"{POLICY}; frame-ancestors 'none'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def server_of(folder: str | Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of an explorer on the loopback address; ``serve_forever`` runs it.

    Args:
        folder: That `explore` wrote.
        port: 0 is any free one; ``server_port`` tells which.

    Raises:
        OSError: If the port is taken.
    """

    def handler(*args: Any) -> _Handler:
        return _Handler(*args, directory=str(folder))

    return ThreadingHTTPServer((HOST, port), handler)
