"""What a small task imports: nobody waits for PyTorch to hear of a typing error."""

import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("task", "without"),
    [
        ("from cardiac_attrivae.runtime.yaml_files import read_yaml; read_yaml('a: 1')",
         ("torch", "monai", "pandas", "scipy")),
        ("from cardiac_attrivae.data.manifest import load_manifest; load_manifest('acdc')",
         ("torch", "monai", "pandas", "scipy")),
        ("from cardiac_attrivae.training.config import load_pipeline; load_pipeline('attri_vae')",
         ("torch", "monai", "pandas", "scipy")),
        ("import cardiac_attrivae.cli.main",
         ("torch", "monai", "pandas", "scipy", "numpy", "matplotlib", "cardiac_attrivae.data")),
        ("import cardiac_attrivae.reproduce", ("monai", "ignite", "pandas", "matplotlib")),
        pytest.param(
            "import cardiac_attrivae.training.verify",
            ("cardiac_attrivae.data.preprocess", "cardiac_attrivae.data.transforms"),
            marks=pytest.mark.slow,
        ),
        ("import cardiac_attrivae.report.page", ("torch", "monai")),
        pytest.param(
            "import cardiac_attrivae.segmentation.scans as scans; scans.load_segmenter('acdc')",
            ("torch._dynamo",), marks=pytest.mark.slow,
        ),
        ("import cardiac_attrivae.runtime.folders", ("torch", "numpy")),
    ],
)  # fmt: skip
def test_a_small_task_imports_nothing_large(task, without):
    program = f"{task}\nimport json, sys; print(json.dumps(list(sys.modules)))"
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert not set(without) & set(json.loads(found.stdout.splitlines()[-1]))
