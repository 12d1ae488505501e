"""Which rows are held out: told by what a row holds, and by nothing else.

The same on every machine, in every version and whatever form its file has. Nobody needs
to change this: models that are compared must agree on it.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

# To a model, every column is one of these; a boolean is a number.
NUMBER, DATE, TEXT = pl.Float64(), pl.Datetime("us"), pl.String()


@dataclass(frozen=True)
class Split:
    """Which rows a model is judged on, and never sees: decided by each row alone.

    A row is told by its values in the columns `by`, of which a missing one adds nothing.
    As a column can change its type when data is added, 1, 1.0, true and the text "1" are
    the same. So rows that are equal in `by` are on one side, for good.
    """

    by: list[str]
    seed: int
    fraction: float

    def groups(self, table: pl.DataFrame) -> npt.NDArray[np.uint64]:
        """A number for each row, evenly distributed, and the same on every machine."""
        total = np.zeros(len(table), np.uint64)
        for name in self.by:
            values = column(table, name)
            if values.dtype.is_float():
                values = values.fill_nan(None)
            numbers = mix(bits(values) + np.uint64(digest(name)))
            total += np.where(values.is_null(), np.uint64(0), numbers)
        return mix(total + np.uint64(digest(f"seed {self.seed}")))

    def held_out(self, table: pl.DataFrame) -> npt.NDArray[np.bool_]:
        """Whether each row is held out: about `fraction` of all different ones."""
        groups = self.groups(table) >> np.uint64(11)  # 53 bits, which a float holds
        return np.asarray(groups * 2.0**-53 < self.fraction)


def bits(values: pl.Series) -> npt.NDArray[np.uint64]:
    """64 bits for each value of a column, whatever they are where one is missing."""
    if values.dtype == TEXT:
        values = values.fill_null("")
        texts = values.unique()
        known = pl.Series([text_bits(text) for text in texts], dtype=pl.UInt64)
        return values.replace_strict(texts, known).cast(pl.UInt64).to_numpy()
    if values.dtype.is_temporal():
        values = values.cast(DATE).to_physical()
    values = values.fill_null(0)
    numbers = values.cast(NUMBER)
    found = (numbers.to_numpy() + 0.0).view(np.uint64)  # + 0.0, as -0.0 equals 0.0
    if values.dtype.is_integer():
        # Beyond 2^53, floats are too coarse: what they leave of the integer counts too.
        rest = values.cast(pl.Int128) - numbers.cast(pl.Int128)
        found += rest.cast(pl.Int64).to_numpy().astype(np.uint64)
    return found


def text_bits(text: str) -> int:
    """The bits of a text: those of the number, boolean or date that it reads as."""
    text = {"true": "1", "false": "0"}.get(text.lower(), text)
    number, rest = None, 0
    if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
        number = float(text) + 0.0
        if re.fullmatch(r"[+-]?[0-9]{1,19}", text):
            rest = int(text) - int(number)  # beyond 2^53, as above
    elif re.fullmatch(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?)?", text):
        with suppress(ValueError):  # the 31st of February
            number = float(np.datetime64(text, "us").astype(np.int64))
    if number is None:
        return digest(text)
    return (int(np.float64(number).view(np.uint64)) + rest) % 2**64


def digest(text: str) -> int:
    eight_bytes = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(eight_bytes, "little")


def mix(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Scatter numbers: the finaliser of SplitMix64, in which every bit sways all."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def column(table: pl.DataFrame, name: str) -> pl.Series:
    """A column without its name, as polars would take one like `^a$` for a pattern."""
    return table[name].alias("")
