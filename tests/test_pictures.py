"""No picture that the project ships shows a real patient."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import store_of
from PIL import Image
from scipy import fft
from scipy.ndimage import gaussian_filter, uniform_filter
from skimage.transform import resize

from cardiac_attrivae.data.store import SliceDataset

pytestmark = pytest.mark.xdist_group("pictures")  # one store of real hearts

DOCS = Path(__file__).parents[1] / "docs"
COARSE = 1 / 3
SIDES = range(24, 63, 2)
"""Pixels of a heart's crop in a picture after `COARSE`: 72 to 186 as the picture is shipped."""
SAME = 0.9
"""Correlation of fine detail above which two slices are the same one. A real slice in a picture
has .95; two different hearts, real or synthetic, reach .85."""


def pictures():
    """Grey pictures in docs/, those inside notebooks included, in [0, 1]."""
    for file in sorted(DOCS.rglob("*.png")):
        yield file.name, file.read_bytes()
    for file in sorted(DOCS.rglob("*.ipynb")):
        for number, cell in enumerate(json.loads(file.read_text())["cells"]):
            for output in cell.get("outputs", ()):
                if "image/png" in (data := output.get("data", {})):
                    yield f"{file.name}, cell {number}", base64.b64decode(data["image/png"])


def detail(picture):
    """What a different heart does not have: structures of one to three pixels."""
    return gaussian_filter(picture, 0.7) - gaussian_filter(picture, 2.5)


def at_every_size(hearts):
    """Detail of slices (N, h, w), of mean 0 and norm 1, by the side of the slice in pixels."""
    sizes = {}
    for side in SIDES:
        crops = np.stack([detail(resize(h, (side, side), anti_aliasing=True)) for h in hearts])
        crops -= crops.mean(axis=(1, 2), keepdims=True)
        sizes[side] = np.float32(crops / np.linalg.norm(crops, axis=(1, 2), keepdims=True))
    return sizes


def likeness(picture, sizes):
    """Largest correlation of slices with any place of a picture, at any size, (N,)."""
    small = detail(resize(picture, [round(COARSE * s) for s in picture.shape], anti_aliasing=True))
    padded = [fft.next_fast_len(side, real=True) for side in small.shape]
    spectrum, best = fft.rfft2(np.float32(small), padded), 0.0
    for side, crops in sizes.items():
        if side >= min(small.shape):
            break
        product = spectrum * fft.rfft2(crops, padded).conj()
        inside = np.s_[: small.shape[0] - side + 1, : small.shape[1] - side + 1]
        found = fft.irfft2(product, padded)[:, *inside]
        shift = (side - 1) // 2 - side // 2  # the window that begins at 0 has its centre at side//2
        mean, square = (uniform_filter(x, side, origin=shift) for x in (small, small**2))
        start = np.s_[side // 2 + shift :, side // 2 + shift :]
        energy = side**2 * (square - mean**2)[start][inside]
        seen = np.where(energy > 1e-4 * side**2, found / np.sqrt(np.maximum(energy, 1e-9)), 0)
        best = np.maximum(best, seen.max(axis=(1, 2)))
    return best


@pytest.fixture(scope="module")
def hearts(real_data, tmp_path_factory):
    """Crops around the heart of every real patient at hand, (N, 64, 64)."""
    folder = store_of("acdc", real_data / "acdc", tmp_path_factory.mktemp("real") / "s", "basal")
    return SliceDataset.open(folder).images[:, 0, 20:108, 20:108].numpy()


@pytest.mark.slow
@pytest.mark.realdata
def test_no_picture_shows_a_real_patient(hearts):
    found, sizes = {}, at_every_size(hearts)
    for name, data in pictures():
        picture = np.asarray(Image.open(io.BytesIO(data)).convert("L")) / 255
        found[name] = likeness(picture, sizes).max()
    assert len(found) > 5
    assert max(found.values()) < SAME, found


@pytest.mark.slow
@pytest.mark.realdata
def test_a_real_slice_in_a_picture_would_be_found(hearts):
    picture = np.ones((330, 915))
    picture[60:240, 70:250] = resize(np.pad(hearts[11], 20), (180, 180))
    picture[70:220, 301:451] = resize(np.pad(hearts[12], 20), (150, 150)) * 0.8
    found = likeness(np.round(picture * 255) / 255, at_every_size(hearts[:40]))
    assert (found > SAME).nonzero()[0].tolist() == [11, 12]
