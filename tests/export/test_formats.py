"""Other programs get the network that was trained: other readers, other numbers of slices."""

import io
import re
import socket
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import cardiac_attrivae
from cardiac_attrivae.export import formats
from cardiac_attrivae.models.conditional import told
from cardiac_attrivae.models.networks import NETWORKS, build_network
from cardiac_attrivae.schema import DataError
from cardiac_attrivae.training.config import Network, parse_pipeline
from cardiac_attrivae.training.run import Run

SIZE, DIMENSIONS = 16, 3
ARGUMENTS = {
    "BetaVAE": {},
    "SoftIntroVAE": {"filters": (4, 8)},
}


def run_of(name, **changes):
    """A run of random weights; its batch norm has seen something, so that eval mode matters."""
    torch.manual_seed(0)
    arguments = {"latent_size": DIMENSIONS, "image_size": SIZE, **ARGUMENTS.get(name, {})}
    network = build_network(name, **arguments)
    network.train()
    with torch.no_grad():
        network(torch.rand(8, 1, SIZE, SIZE))
    return of(network.eval(), Network(name, arguments), **changes)


def of(network, described=None, **changes):
    pipeline = parse_pipeline({"method": "mine", "attributes": ["LVEDA"], **changes})
    if described:
        pipeline = pipeline.__class__(**{**vars(pipeline), "network": described})
    about = {"code_mean": [0.1] * DIMENSIONS, "code_deviation": [0.9] * DIMENSIONS}
    return Run(Path("runs/mine"), network, pipeline, about)


def test_the_table_of_arguments_knows_every_network():
    assert ARGUMENTS.keys() == NETWORKS.keys()


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def run(request):
    return run_of(request.param)


@pytest.fixture(scope="module")
def given(run):
    """Five slices, which no file was tried with, their codes, and the slices of those."""
    image = torch.rand(5, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        mu, logvar = run.network.encode(image)
        return image, mu, logvar, run.network.decode(mu)


def close(found, expected):
    torch.testing.assert_close(torch.as_tensor(found), expected, rtol=1e-4, atol=1e-5)


def test_onnx_in_another_program(run, given, tmp_path):
    import onnxruntime

    lines = []
    files = formats.write_onnx(run, tmp_path, lines.append)
    assert [line.partition(":")[0] for line in lines] == ["encoder.onnx", "decoder.onnx"]
    image, mu, logvar, decoded = given
    encoder, decoder = (onnxruntime.InferenceSession(files[k]) for k in ("encoder", "decoder"))
    assert [(i.name, i.shape) for i in encoder.get_inputs()] == [
        ("image", ["batch", 1, SIZE, SIZE])
    ]
    found = encoder.run(["mu", "logvar"], {"image": image.numpy()})
    close(found[0], mu)
    close(found[1], logvar)
    close(decoder.run(["reconstruction"], {"z": mu.numpy()})[0], decoded)
    for file in files.values():
        assert nothing_of_the_machine(file.read_bytes())


def test_torchscript_without_this_package(run, given, tmp_path):
    file = formats.write_torchscript(run, tmp_path, extra={"note.json": "{}"})["model"]
    image, mu, logvar, decoded = given
    extra = {"note.json": ""}
    model = torch.jit.load(file, _extra_files=extra)
    with torch.no_grad():
        close(model.encode(image)[0], mu)
        close(model.encode(image)[1], logvar)
        close(model.decode(mu), decoded)
        close(model(image), decoded)
    assert not model.encode(image)[0].requires_grad, "no numpy() for who does without no_grad"
    assert extra["note.json"] == b"{}"
    with zipfile.ZipFile(file) as archive:
        assert all(nothing_of_the_machine(archive.read(name)) for name in archive.namelist())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("BetaVAE", {"normalisation": "batch"}),
        pytest.param(
            "BetaVAE", {"normalisation": "instance", "per_channel": [8]}, marks=pytest.mark.slow
        ),
        ("SoftIntroVAE", {}),
        pytest.param(
            "BetaVAE", {"outlines": True, "shapes": 1, "brightness": 1}, marks=pytest.mark.slow
        ),
        pytest.param("SoftIntroVAE", {"outlines": True, "shapes": 1}, marks=pytest.mark.slow),
    ],
)
def test_a_conditional_network_is_told_in_another_program(name, options, tmp_path):
    import onnxruntime

    size = 32
    arguments = {"latent_size": DIMENSIONS, "image_size": size, "channels": 2, **ARGUMENTS[name]}
    arguments |= options | {"condition": "vendor", "categories": ["GE", "Siemens"]}
    torch.manual_seed(0)
    network = build_network(name, **arguments)
    for parameter in network.parameters():  # a new network ignores what it is told
        torch.nn.init.normal_(parameter, 0, 0.2)
    if network.shape_model is not None:  # as if fitted: sizes of the first two dimensions
        network.shape_model.mean.normal_(0, 5)
        network.shape_model.basis.normal_()
        network.shape_model.read.normal_(0, 0.01)
        network.shape_model.size[:2] = 0.01
    if network.brightness_model is not None:
        network.brightness_model.basis.normal_()
    network.train()(torch.rand(8, 2, size, size))
    network.eval()
    files = formats.write_onnx(of(network, Network(name, arguments)), tmp_path)
    formats.write_torchscript(of(network, Network(name, arguments)), tmp_path)
    encoder, decoder = (onnxruntime.InferenceSession(files[k]) for k in ("encoder", "decoder"))
    assert [(i.name, i.shape) for i in encoder.get_inputs()][1:] == [("condition", ["batch", 2])]
    image, categories = torch.rand(3, 2, size, size), torch.tensor([[1.0, 0], [0, 1], [0, 0]])
    with torch.no_grad(), told(network, categories):
        mu, logvar = network.encode(image)
        decoded = network.decode(mu)
    fed = {"condition": categories.numpy()}
    found = encoder.run(["mu", "logvar"], {"image": image.numpy()} | fed)
    close(found[0], mu)
    close(found[1], logvar)
    close(decoder.run(["reconstruction"], {"z": mu.numpy()} | fed)[0], decoded)
    with torch.no_grad():
        silent = network.encode(image)[0]
    close(silent[2], mu[2])
    assert not torch.isclose(silent[:2], mu[:2]).all(dim=1).any()


def test_safetensors_by_their_names(run, tmp_path):
    file = formats.write_safetensors(run, tmp_path)["model"]
    weights = load_file(file)
    expected = run.network.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def modules_in(file):
    """Paths of modules of this package in a file, also in one that is an archive."""
    parts = [file.read_bytes()]
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            parts += [archive.read(name) for name in archive.namelist()]
            parts += [name.replace("/", ".").encode() for name in archive.namelist()]
    found = {name for part in parts for name in re.findall(rb"cardiac_attrivae(?:\.\w+)+", part)}
    return {name.decode() for name in found}


@pytest.mark.parametrize("form", formats.FORMATS)
def test_no_file_names_a_module_of_the_package(run, tmp_path, form):
    files = formats.FORMATS[form](run, tmp_path)
    assert not [modules_in(file) for file in files.values() if modules_in(file)]


def nothing_of_the_machine(content):
    places = [Path(cardiac_attrivae.__file__).parent, Path(torch.__file__).parent, Path.home()]
    words = [*map(str, places), socket.gethostname()]  # short ones stand in weights by chance
    return not any(word.encode() in content for word in words if len(word) > 4)


def test_the_search_finds_what_pytorch_notes_by_itself():
    traced = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    torch.jit.save(traced, stream := io.BytesIO())
    with zipfile.ZipFile(stream) as archive:
        assert not all(nothing_of_the_machine(archive.read(name)) for name in archive.namelist())


def test_the_run_stays_as_it_was_and_the_file_is_float32(tmp_path):
    run = run_of("SoftIntroVAE")
    run.network.to(torch.float64)
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    file = formats.write_torchscript(run, tmp_path)["model"]
    assert torch.jit.load(file)(torch.rand(2, 1, SIZE, SIZE)).dtype == torch.float32
    after = run.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert next(run.network.parameters()).dtype == torch.float64


class Counting(torch.nn.Module):
    """Computes something else for another number of rows, which a trace cannot know."""

    def encode(self, image):
        return image[:, 0, 0, :DIMENSIONS] * len(image), image[:, 0, 1, :DIMENSIONS]

    def decode(self, z):
        return (z.sum(1) * float(len(z)))[:, None, None, None].expand(-1, 1, SIZE, SIZE)


def test_a_file_that_computes_something_else_is_not_left(tmp_path):
    with pytest.raises(
        DataError, match=r"model.ts: largest difference from PyTorch .* with 1 rows"
    ):
        formats.write_torchscript(of(Counting()), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [torch.nan, 0.5])
def test_what_differs_is_refused(wrong):
    with pytest.raises(DataError, match="largest difference"):
        formats.compare(lambda x: x, lambda x: x + wrong, (torch.zeros(3, 2),), Path("f"))


def test_what_is_accepted_grows_with_the_values():
    off = 0.5 * formats.TOLERANCE
    for scale in (1.0, 1e4):
        found = formats.compare(
            lambda x: x, lambda x, s=scale: x + s * off, (torch.ones(3, 2) * scale,), Path("f")
        )
        assert found == pytest.approx(scale * off, rel=0.05)


def test_another_shape_is_refused():
    with pytest.raises(DataError, match=r"output \(1, 1, 2\)"):
        formats.compare(lambda x: x, lambda x: x[:, None], (torch.ones(3, 2),), Path("f"))


def test_onnx_tells_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DataError, match=r"pip install .*onnx"):
        formats.write_onnx(run_of("BetaVAE"), tmp_path)


def test_the_place_of_perceptual_weights_stays_private(tmp_path):
    objective = {"name": "SoftIntro", "perceptual_weights": "/home/somebody/vgg19.pth"}
    file = formats.write_safetensors(run_of("BetaVAE", objective=objective), tmp_path)["model"]
    assert b"somebody" not in file.read_bytes()


def test_weights_that_give_another_output_are_not_left_behind(run, tmp_path, monkeypatch):
    def refuse(*given):
        raise DataError("largest difference")

    monkeypatch.setattr(formats, "compare", refuse)
    with pytest.raises(DataError, match="largest difference"):
        formats.write_safetensors(run, tmp_path)
    assert not [*tmp_path.iterdir()]
