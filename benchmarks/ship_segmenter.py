"""Packs a trained segmenter of whole pictures for the package: float16, lines of the Dice, a card.

    python benchmarks/ship_segmenter.py RUN MEASURED.csv --about TEXT --on TEXT

MEASURED.csv is what ``benchmarks/segmentation.py`` wrote for patients that were not trained on. The
lines from the agreement of views to the Dice are fitted on them.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import pandas as pd

from cardiac_attrivae.data.manifest import load_manifest
from cardiac_attrivae.runtime.files import write
from cardiac_attrivae.runtime.provenance import digest
from cardiac_attrivae.runtime.shipped_models import PRETRAINED
from cardiac_attrivae.runtime.weights import read_weights, write_weights
from cardiac_attrivae.schema import STRUCTURES

CARD = """\
# Segmenter of whole short-axis pictures, trained on ACDC

Outlines LV, myocardium and RV in short-axis cine MRI that has no masks. It is used by
`cardiac-attrivae segment` and `cardiac-attrivae encode` where no mask is given (`--model acdc`).

- **Network.** A U-Net (MONAI DynUNet, {parameters:,} weights in float16) on slices of {spacing} mm
  pixels, each with the slice before and after it. Pipeline `segment_scans`.
- **Training.** {about}
- **Measured** {measured}, mean Dice per patient:

{table}

  `docs/evidence/segmentation.md` has volumes, ejection fractions, other scanners and failures.
- **Not for.** Diagnosis or treatment: this is no medical device. Children, congenital heart
  disease, long-axis and late-enhancement pictures were never seen. Check what `segment` draws.
- **Remembers** its training pictures by digests of coarse brightness, so that `segment` and
  `encode` say of a scan that it was trained on it.
- **Fingerprint.** model.safetensors has SHA-256 `{digest}`.

## Licence and citation

The weights derive from ACDC, which is distributed under CC BY-NC-SA 4.0
(https://creativecommons.org/licenses/by-nc-sa/4.0/). They are distributed under the same licence,
apart from the code of the package: for non-commercial use, with attribution, under the same terms.
Whether weights are a derived work of pictures is not settled everywhere; where in doubt, follow the
terms of the data. No picture and no mask of a patient is in this folder.

{citation}
"""


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("measured", type=click.Path(path_type=Path))
@click.option("--about", required=True, help="How it was trained, for the card.")
@click.option("--on", "unseen", required=True, help="What it was measured on, for the card.")
def main(run: Path, measured: Path, about: str, unseen: str) -> None:
    """Writes pretrained/acdc/segmenter."""
    weights, facts = read_weights(run / "model.safetensors")
    table = pd.read_csv(measured)
    manifest = load_manifest("acdc")
    facts = {key: facts[key] for key in ("pipeline", "recipe", "outlines", "train_pictures")}
    facts |= {"title": manifest.title, "citation": manifest.citation, "licence": manifest.licence}
    facts["dice_lines"] = {
        name: list(
            map(float, np.polyfit(table[f"agreement_{name}"], table[f"Dice_{name}"], 1)[::-1])
        )
        for name in STRUCTURES
    }
    half = {n: v.half() if v.is_floating_point() else v for n, v in weights.items()}
    folder = PRETRAINED / "acdc" / "segmenter"
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder / "model.safetensors", half, facts)
    means = table.groupby("phase")[[f"Dice_{name}" for name in STRUCTURES]].mean().round(3)
    rows = [f"  | {phase} | " + " | ".join(f"{v:.3f}" for v in row) + " |"
            for phase, row in zip(means.index, means.to_numpy(), strict=True)]  # fmt: skip
    head = [f"  | | {' | '.join(STRUCTURES)} |", "  | --- | --- | --- | --- |"]
    text = CARD.format(
        parameters=sum(v.numel() for v in weights.values() if v.is_floating_point()),
        spacing=facts["recipe"]["spacing"], about=about, measured=unseen,
        table="\n".join([*head, *rows]),
        digest=digest(folder / "model.safetensors"), citation=manifest.citation,
    )  # fmt: skip
    write(folder / "README.md", text)


if __name__ == "__main__":
    main()
