"""Writes runs for other programs: MONAI bundles, weights and networks, the explorer.

Bundles that were given to others name the following. These names and their arguments are kept
stable in later versions, wherever the code behind them moves; no exported file names anything else
in this package.
"""

from .bundle_inference import CodeWriter, bundled_network, read_slices, training_workflow

__all__ = ["CodeWriter", "bundled_network", "read_slices", "training_workflow"]
