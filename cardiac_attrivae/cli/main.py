"""The command line. Each command is a few lines around one library call.

Libraries are imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os

import click

from ..runtime.provenance import __version__
from .console import Commands, prepare_streams, use_utf8
from .data import check, join, phantom, preprocess
from .diagnosis import diagnose
from .drawing import explore, generate, traverse
from .encoding import encode
from .evaluation import cross_domain_eval, report
from .export import export
from .segmentation import segment
from .training import train, tune, verify
from .whole import demo, reproduce


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__)
def main() -> None:
    """Generative models of the heart whose latent dimensions mean something.

    The usual order: check, preprocess, train, cross-domain-eval, report. Try demo first.
    """
    prepare_streams()
    use_utf8()
    os.environ["MPLBACKEND"] = "agg"  # pictures go into files, whatever a notebook passes on


for command in (
    demo, check, segment, preprocess, join, train, verify, tune, cross_domain_eval, report, encode,
    diagnose, generate, traverse, explore, export, reproduce, phantom,
):  # fmt: skip
    main.add_command(command)
