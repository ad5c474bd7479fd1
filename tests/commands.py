"""Calls the commands one after another in one process, as a user would, on phantoms.

``python commands.py FOLDER`` needs no package that setup.cfg does not require; `.ci/run` starts it
with the oldest versions. tests/windows.py calls all commands but tune, phantom and those that call
others.
"""

import os
import sys
from collections.abc import Iterable
from functools import partial
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

SHORT = "--set schedule.epochs=1 --set schedule.steps_per_epoch=3 --set data.batch_size=8"
TRAIN = f"--pipeline attri_vae_unguided --data store {SHORT}"
CORE = (
    "check --dataset acdc --source {phantoms}",
    "preprocess --dataset acdc --source {phantoms} --output store --slice all",
    f"train {TRAIN} --output run",
    "cross-domain-eval --model run --data store --output scores --rounds 9",
    "report --evaluation scores --output report",
    "generate --model run --set LVEDA=9 --output heart",
)
MORE = (
    "preprocess --dataset acdc --source {phantoms} --output again",
    "preprocess --dataset acdc --source {phantoms} --output again --overwrite",
    f"train {TRAIN} --output run --resume",
    "verify run",
    "cross-domain-eval --model run --data store:test --output scores --rounds 9",
    "report --evaluation scores --output report",
    "generate --model run --set LVEDA=9 --output heart",
    "traverse --model run --steps 3 --output turned",
    "segment --source {scan} --output masks",
    "encode --model run --source {scan} --mask masks --output codes",
    "explore --model run --output page",
    "export --model run --format bundle --output bundle",
    "export --model run --format safetensors --output weights",
    "export --model run --format onnx --output onnx",
)


def call_all(phantoms: Path, folder: Path, commands: Iterable[str]) -> None:
    """Imports every module, then calls the commands; what they write goes into the folder."""
    import cardiac_attrivae
    from cardiac_attrivae.cli.main import main
    from cardiac_attrivae.segmentation import judge

    for module in walk_packages(cardiac_attrivae.__path__, "cardiac_attrivae."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    judge.Training = partial(judge.Training, steps=2, batch_size=4)  # type: ignore[misc]
    phantoms = phantoms.resolve()
    places = {"phantoms": phantoms, "scan": next(phantoms.glob("training/*/*_frame*[0-9].nii.gz"))}
    os.chdir(folder)
    for command in commands:
        print(f"$ {command}", flush=True)
        words = [word.format(**places) for word in command.split()]
        main.main(words, standalone_mode=False)


if __name__ == "__main__":
    from cardiac_attrivae.data.phantom import write_phantoms

    folder = Path(sys.argv[1])
    write_phantoms("acdc", folder / "acdc", cases=9, cine=False)
    call_all(folder / "acdc", folder, CORE)
