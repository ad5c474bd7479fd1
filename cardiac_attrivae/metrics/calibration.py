"""What a latent dimension means in mL and cm2: lines from codes to attributes, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from ..schema import LatentTable
from .control import STEPS
from .information import mutual_information
from .patients import LEAST, checked


@dataclass(frozen=True)
class Calibration:
    """A line per attribute, ``attribute = intercept + slope * code``, through training patients.

    Example:
        >>> from .patients import as_table
        >>> codes = np.array([[1.0, 2.0], [2.0, 0.0], [3.0, 1.0], [4.0, 1.0], [5.0, 2.0]])
        >>> line = Calibration.fit(as_table(codes, 100 + 20 * codes[:, 0], dimensions=[0]))
        >>> line.read(np.array([[2.5, 0.0]]))
        array([[150.]])
        >>> line.set(codes[:1], {"attribute 0": 180})
        array([[4., 2.]])
        >>> line.outside({"attribute 0": 300})
        ['attribute 0 300 is outside of what was seen in training, 120 to 200']
    """

    names: tuple[str, ...]  # attributes, length K
    # the latent dimension of each, length K: the trained one, or else the one with the largest
    # information
    dimensions: tuple[int, ...]
    slope: np.ndarray  # of the lines, (K,), in units of the attributes
    intercept: np.ndarray  # (K,), in the same units
    low: np.ndarray  # least value of each attribute among the training patients, (K,)
    high: np.ndarray  # largest value of each, (K,)
    code_mean: np.ndarray  # mean of the training codes in these dimensions, (K,)
    code_deviation: np.ndarray  # standard deviation of the same, (K,)

    @classmethod
    def fit(cls, table: LatentTable) -> Calibration:
        """Fits least-squares lines through codes and attributes of training patients.

        Raises:
            ValueError: If there are fewer than 5 rows, or a value is not finite.
        """
        codes, attributes = checked(table.codes, table.attributes, table.names)
        best = mutual_information(codes, attributes).argmax(axis=0)
        pairs = zip(table.dimensions, best, strict=True)
        dimensions = tuple(int(b) if d is None else d for d, b in pairs)
        x = codes[:, dimensions]
        mean, deviation = x.mean(axis=0), x.std(axis=0)
        covariance = ((x - mean) * (attributes - attributes.mean(axis=0))).mean(axis=0)
        slope = np.divide(covariance, deviation**2, out=covariance * 0, where=deviation > 0)
        return cls(
            table.names,
            dimensions,
            slope,
            attributes.mean(axis=0) - slope * mean,
            attributes.min(axis=0),
            attributes.max(axis=0),
            mean,
            deviation,
        )

    @classmethod
    def of_lines(cls, lines: Mapping[str, Mapping[str, float]]) -> Calibration:
        """Takes the lines that a run saved, see `read_lines`."""
        columns = ("slope", "intercept", "low", "high", "code_mean", "code_deviation")
        parts = (np.array([line[name] for line in lines.values()]) for name in columns)
        dimensions = tuple(int(line["dimension"]) for line in lines.values())
        return cls(tuple(lines), dimensions, *parts)

    def read(self, codes: np.ndarray) -> np.ndarray:
        """Reads attributes from codes (N, D), (N, K)."""
        return self.intercept + self.slope * codes[:, self.dimensions]

    def positions(self, steps: np.ndarray = STEPS) -> np.ndarray:
        """Places codes ``steps`` (S,) deviations off the mean, up with the attribute, (K, S)."""
        signs = np.where(self.slope < 0, -1.0, 1.0)
        return self.code_mean[:, None] + np.outer(signs * self.code_deviation, steps)

    def requested(self, positions: np.ndarray) -> np.ndarray:
        """Reads attributes from positions (K, S) of their dimensions, (K, S)."""
        return self.intercept[:, None] + self.slope[:, None] * positions

    def set(self, codes: np.ndarray, request: Mapping[str, float | np.ndarray]) -> np.ndarray:
        """Sets the dimensions of the requested attributes in a copy of codes (N, D): attribute ->
        one value, or one for each code, (N,).

        Raises:
            ValueError: If an attribute is unknown, has no line, or shares its dimension with
                another one that is requested.
        """
        codes, taken = codes.copy(), dict[int, str]()
        for name, value in request.items():
            if name not in self.names:
                known = ", ".join(self.names)
                raise ValueError(f"the model has no attribute {name!r}; expected some of {known}")
            k = self.names.index(name)
            dimension = self.dimensions[k]
            if dimension in taken:
                raise ValueError(
                    f"{name} and {taken[dimension]} are both read off dimension {dimension}; "
                    "request one of them, or take a model with the attribute term"
                )
            if not self.slope[k]:
                raise ValueError(f"{name} does not depend on dimension {dimension}")
            taken[dimension] = name
            codes[:, dimension] = (value - self.intercept[k]) / self.slope[k]
        return codes

    def outside(self, request: Mapping[str, float]) -> list[str]:
        """Writes a sentence for each requested value that no training patient had."""
        ranges = dict(zip(self.names, zip(self.low, self.high, strict=True), strict=True))
        return [
            f"{name} {value:g} is outside of what was seen in training, "
            f"{ranges[name][0]:.3g} to {ranges[name][1]:.3g}"
            for name, value in request.items()
            if not ranges[name][0] <= value <= ranges[name][1]
        ]


def read_lines(
    codes: np.ndarray, lines: Mapping[str, Mapping[str, float]], level: float = 0.95
) -> np.ndarray:
    """Reads attributes from codes (N, D), with intervals for the attribute of one further patient.

    ``lines`` are K of what `calibration_lines` returns, as a run holds them; an interval contains
    the value of a patient like those of training with probability ``level``.

    Returns:
        Value, lower and upper end, (N, K, 3), in the units of the attributes.

    References:
        | Draper & Smith, Applied regression analysis, section 3.2: prediction intervals

    Example:
        >>> line = {"dimension": 0, "slope": 20.0, "intercept": 100.0, "code_mean": 0.0}
        >>> line |= {"code_deviation": 1.0, "residual_sd": 2.0, "n": 50}
        >>> read_lines(np.array([[0.5]]), {"LVEDV": line}).round(1).tolist()
        [[[110.0, 105.9, 114.1]]]
    """

    read = []
    for line in lines.values():
        code, n = codes[:, int(line["dimension"])], line["n"]
        value = line["intercept"] + line["slope"] * code
        away = (code - line["code_mean"]) ** 2
        leverage = away / max(n * line["code_deviation"] ** 2, np.finfo(float).tiny)
        half = t.ppf((1 + level) / 2, n - 2) * line["residual_sd"] * np.sqrt(1 + 1 / n + leverage)
        read.append(np.stack([value, value - half, value + half], axis=1))
    return np.stack(read, axis=1)


def calibration_lines(table: LatentTable) -> dict[str, dict[str, float]]:
    """Says what the codes of a model mean in the units of the attributes, from those of training
    patients; empty with fewer than `LEAST`.

    Returns:
        For each attribute its ``dimension``, ``slope`` and ``intercept`` of the line from the code
        to the attribute, ``low`` and ``high``, the range among the training patients,
        ``code_mean`` and ``code_deviation``, ``residual_sd``, the standard deviation about the line
        (n - 2 degrees of freedom), and the number ``n`` of patients.

    Example:
        >>> codes = np.array([[1.0], [2.0], [3.0], [4.0], [5.0]])
        >>> table = LatentTable(tuple("abcde"), codes, 100 + 20 * codes, ("LVEDV",), (0,))
        >>> line = calibration_lines(table)["LVEDV"]
        >>> round(line["slope"]), round(line["intercept"]), line["n"]
        (20, 100, 5)
    """
    if len(table.codes) < LEAST:
        return {}
    line = Calibration.fit(table)
    n = len(table.codes)
    residual = np.sqrt(((table.attributes - line.read(table.codes)) ** 2).sum(axis=0) / (n - 2))
    columns = ("dimensions", "slope", "intercept", "low", "high", "code_mean", "code_deviation")
    parts = (*(getattr(line, name) for name in columns), residual)
    keys = ("dimension", *columns[1:], "residual_sd")
    return {
        name: {key: float(v) for key, v in zip(keys, row, strict=True)}
        | {"dimension": int(row[0]), "n": n}
        for name, row in zip(line.names, zip(*parts, strict=True), strict=True)
    }
