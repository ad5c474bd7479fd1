"""Is the ridge baseline better on pixels as they are, or standardised?

    python benchmarks/baselines.py --data STORE

Only the training patients of a store that ``preprocess`` wrote are asked: each is predicted by a
ridge that was fitted on four other fifths. The fifths are drawn five times. Prints R2 of each
attribute.
"""

import argparse

import numpy as np
import pandas as pd
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cardiac_attrivae.attributes import ATTRIBUTES
from cardiac_attrivae.data.store import SliceDataset
from cardiac_attrivae.evaluation.baselines import coarse, ridge


def compare(store: str, draws: int) -> pd.DataFrame:
    """Returns R2 of each attribute, a row per draw of the folds and way of scaling."""
    patients = SliceDataset.open(store).split("train").basal()
    pixels, names = coarse(patients.images), tuple(ATTRIBUTES)
    known = patients.measured(names)
    ways = {"as they are": ridge(), "standardised": make_pipeline(StandardScaler(), ridge())}
    rows = []
    for draw in range(draws):
        folds = KFold(5, shuffle=True, random_state=draw)
        for way, model in ways.items():
            read = [cross_val_predict(model, pixels, column, cv=folds) for column in known.T]
            scores = r2_score(known, np.column_stack(read), multioutput="raw_values")
            rows.append({"draw": draw, "pixels": way} | dict(zip(names, scores, strict=True)))
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="store that preprocess wrote")
    parser.add_argument("--draws", type=int, default=5, help="draws of the folds")
    given = parser.parse_args()
    table = compare(given.data, given.draws)
    print(table.to_string(index=False, float_format="{:.3f}".format))
    print(
        table.groupby("pixels").mean().drop(columns="draw").to_string(float_format="{:.3f}".format)
    )


if __name__ == "__main__":
    main()
