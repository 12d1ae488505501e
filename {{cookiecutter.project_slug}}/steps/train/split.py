"""Which rows are held out: decided by what a row holds, and by nothing else.

The decision is the same on every machine, in every version and whatever format the data
has. Nobody needs to change this: models that are compared must agree on it.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import numpy.typing as npt
import polars as pl

# To a model, every column is of one of these types; a boolean is a number.
NUMBER = pl.Float64()
DATE = pl.Datetime("us")
TEXT = pl.String()

NUMBER_PATTERN = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
INTEGER_PATTERN = r"[+-]?[0-9]{1,19}"
DATE_PATTERN = r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?)?"


@dataclass(frozen=True)
class Split:
    """The rule by which rows are held out from training, to judge the model on.

    It looks at a row's values in the columns `by` alone, so rows that are equal there are
    on the same side, for good. A missing value counts as if there were no such column.
    The type of a column may change when data is added, so 1, 1.0, true and the text "1"
    count as the same value. About the share `fraction` of all different rows is held out,
    others for another `seed`.

    Some classes of the column `target` may have a fraction of their own. It is part of the
    rule, so a row's side still depends on the row alone.
    """

    by: list[str]
    seed: int
    fraction: float
    target: str = ""
    class_fractions: dict[str, float] = field(default_factory=dict)

    def groups(self, table: pl.DataFrame) -> npt.NDArray[np.uint64]:
        """Return an evenly distributed number for each row, the same for equal rows."""
        total = np.zeros(len(table), np.uint64)
        for name in self.by:
            values = get_column(table, name)
            if values.dtype.is_float():
                values = values.fill_nan(None)
            numbers = scatter_bits(value_bits(values) + np.uint64(hash_text(name)))
            total += np.where(values.is_null(), np.uint64(0), numbers)
        return scatter_bits(total + np.uint64(hash_text(f"seed {self.seed}")))

    def positions(self, table: pl.DataFrame) -> npt.NDArray[np.float64]:
        """Return a number from 0 to 1 for each row; the row is held out if it is small."""
        # A float holds 53 bits, so the lowest 11 of 64 are left out.
        return np.asarray((self.groups(table) >> np.uint64(11)) * 2.0**-53)

    def held_out(self, table: pl.DataFrame) -> npt.NDArray[np.bool_]:
        """Return whether each row is held out."""
        fractions = np.full(len(table), self.fraction)
        if self.class_fractions:
            classes = get_column(table, self.target).cast(TEXT)
            for name, fraction in self.class_fractions.items():
                is_of_class = (classes == name).fill_null(value=False)
                fractions[is_of_class.to_numpy()] = fraction
        return np.asarray(self.positions(table) < fractions)

    def advise_more(self) -> str:
        """Return what a user can do to hold out more rows, or other ones."""
        return (
            f"raise training.test_fraction (it is {self.fraction:g}), or choose another"
            " training.seed in settings.yml"
        )

    def advise_fewer(self) -> str:
        """Return what a user can do to hold out fewer rows, or other ones."""
        return (
            f"lower training.test_fraction (it is {self.fraction:g}), or choose another"
            " training.seed in settings.yml"
        )


@dataclass(frozen=True)
class TimeSplit:
    """The rule that holds out all rows from a date on.

    `start` is a date or a time in the form of ISO 8601. A row without a date is not held
    out. `by` and `seed` say, as in `Split`, which rows belong together; they do not decide
    what is held out.
    """

    by: list[str]
    seed: int
    column: str
    start: str

    def groups(self, table: pl.DataFrame) -> npt.NDArray[np.uint64]:
        """Return an evenly distributed number for each row, the same for equal rows."""
        return Split(self.by, self.seed, 0).groups(table)

    def held_out(self, table: pl.DataFrame) -> npt.NDArray[np.bool_]:
        """Return whether each row is held out."""
        start = datetime.fromisoformat(self.start)
        is_held_out = get_column(table, self.column).cast(DATE) >= start
        return is_held_out.fill_null(value=False).to_numpy()

    def advise_more(self) -> str:
        """Return what a user can do to hold out more rows."""
        return f"choose an earlier date than {self.start} for training.holdout.from"

    def advise_fewer(self) -> str:
        """Return what a user can do to hold out fewer rows."""
        return f"choose a later date than {self.start} for training.holdout.from"


def value_bits(values: pl.Series) -> npt.NDArray[np.uint64]:
    """Return 64 bits for each value of a column, the same for values that count as equal.

    A number, boolean or date is represented by the bits of its float, even if it is written
    as text. Other text is represented by a hash. The bits of missing values have no meaning.
    """
    if values.dtype == TEXT:
        values = values.fill_null("")
        texts = values.unique()
        bits_of_texts = pl.Series([text_bits(text) for text in texts], dtype=pl.UInt64)
        return values.replace_strict(texts, bits_of_texts).cast(pl.UInt64).to_numpy()
    if values.dtype.is_temporal():
        values = values.cast(DATE).to_physical()
    values = values.fill_null(0)
    floats = values.cast(NUMBER)
    # Adding 0.0 makes -0.0 the same as 0.0.
    bits = (floats.to_numpy() + 0.0).view(np.uint64)
    if values.dtype.is_integer():
        # Beyond 2^53, several integers become the same float. Adding what was lost by
        # rounding tells them apart. Negative numbers wrap around in 64 bits.
        rounding = values.cast(pl.Int128) - floats.cast(pl.Int128)
        bits += rounding.cast(pl.Int64).to_numpy().astype(np.uint64)
    return bits


def text_bits(text: str) -> int:
    """Return the 64 bits by which a text is assigned to a group.

    A text that reads as a number, a boolean or a date has the bits that `value_bits`
    gives to that value in a column of its type, so that the type of a column does not
    matter. Any other text has the bits of its hash.
    """
    text = {"true": "1", "false": "0"}.get(text.lower(), text)
    number = None
    rounding = 0
    if re.fullmatch(NUMBER_PATTERN, text):
        # Adding 0.0 makes -0.0 the same as 0.0.
        number = float(text) + 0.0
        if re.fullmatch(INTEGER_PATTERN, text):
            # As in `value_bits`, what was lost by rounding tells large integers apart.
            rounding = int(text) - int(number)
    elif re.fullmatch(DATE_PATTERN, text):
        # The 31st of February is no date, but stays text.
        with suppress(ValueError):
            number = float(np.datetime64(text, "us").astype(np.int64))
    if number is None:
        return hash_text(text)
    bits = int(np.float64(number).view(np.uint64))
    # The sum stays within 64 bits, as it does in the arrays of `value_bits`.
    return (bits + rounding) % 2**64


def hash_text(text: str) -> int:
    """Return a hash of 64 bits, the same on every machine."""
    eight_bytes = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(eight_bytes, "little")


def scatter_bits(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return numbers in which every bit depends on all bits of the input.

    This is the finaliser of SplitMix64.
    """
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def get_column(table: pl.DataFrame, name: str) -> pl.Series:
    """Return a column with an empty name.

    polars would take a name such as `^a$` for a pattern when the column is used again.
    """
    return table[name].alias("")
