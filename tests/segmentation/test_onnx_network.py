"""Segmenters of other programs: an ONNX file and a YAML that says how to ask it."""

import numpy as np
import pytest
from scans import LEVELS, heart

from cardiac_attrivae.metrics.images import dice
from cardiac_attrivae.schema import DataError
from cardiac_attrivae.segmentation.scans import load_segmenter

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

OTHER_ORDER = [0, 3, 2, 1]
"""Channels of the network: background, RV, MYO, LV."""
YAML = "spacing_mm: 1.5\nsize: 128\nlabels: {LV: 3, MYO: 2, RV: 1}\n"


@pytest.fixture
def network(tmp_path):
    """A network that tells structures by their brightness, in another order of channels."""
    from onnx import TensorProto, helper, numpy_helper

    levels = LEVELS.numpy()[OTHER_ORDER].reshape(1, 4, 1, 1).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Sub", ["image", "levels"], ["apart"]),
         helper.make_node("Mul", ["apart", "apart"], ["square"]),
         helper.make_node("Mul", ["square", "sharp"], ["logits"])],
        "by_brightness",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 128, 128])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4, 128, 128])],
        [numpy_helper.from_array(levels, "levels"),
         numpy_helper.from_array(np.array(-200, np.float32), "sharp")],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "net.onnx")
    (tmp_path / "net.yaml").write_text(YAML)
    return tmp_path / "net.onnx"


def test_the_yaml_says_which_channel_is_which_structure(network):
    labels, image = heart()
    segmenter = load_segmenter(f"onnx:{network}")
    assert (segmenter.name, segmenter.grid_mm, segmenter.window) == ("net", 1.5, 128)
    found = segmenter.segment(300 * image, (1.5, 1.5, 8.0))
    assert dice(found.labels[None], labels[None]).min() > 0.95


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (YAML.replace("size: 128", "size: 96"), "refuses its input"),
        (YAML.replace("LV: 3", "LV: 2"), "labels is .*; expected a channel of its own"),
        (YAML.replace("LV: 3", "LV: 7"), r"gives \(.*\); expected \(N, 8 or more"),
        (YAML + "normalize: unit\n", "unknown key normalize, did you mean 'normalisation'"),
        ("size: 128\n", "spacing_mm is missing"),
        (YAML + "context: 2\n", "context is 2; expected an odd number"),
    ],
)
def test_what_does_not_fit_is_said(network, text, said):
    network.with_suffix(".yaml").write_text(text)
    with pytest.raises(DataError, match=said):
        load_segmenter(f"onnx:{network}").segment(heart()[1], (1.5, 1.5, 8.0))


def test_a_missing_yaml_and_a_file_that_is_no_network_are_named(network):
    network.with_suffix(".yaml").unlink()
    with pytest.raises(DataError, match=r"net.yaml is missing; expected a network and, beside it"):
        load_segmenter(f"onnx:{network}")
    network.with_suffix(".yaml").write_text(YAML)
    network.write_bytes(b"no network")
    with pytest.raises(DataError, match="cannot be used"):
        load_segmenter(f"onnx:{network}")


def test_a_network_that_gives_no_numbers_is_refused(network):
    model = onnx.load(network)
    (sharp,) = (one for one in model.graph.initializer if one.name == "sharp")
    sharp.CopyFrom(onnx.numpy_helper.from_array(np.array(np.nan, np.float32), "sharp"))
    onnx.save(model, network)
    with pytest.raises(DataError, match="gives NaN or infinite values"):
        load_segmenter(f"onnx:{network}").segment(heart()[1], (1.5, 1.5, 8.0))
