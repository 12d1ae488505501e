"""Decide which rows are held out from training, by a hash of their values.

The decision for a row depends on its own values and on nothing else. It is the same on
every machine, in every run and for every file format. Do not change this module: two
models can only be compared if they agree on which rows are held out.

Each value is turned into 64 bits. The type of a column may change when data is added, so
equal values have the same bits in every type:

- A number has the bits of a 64-bit float. A boolean counts as 1 or 0, and a date as the
  number of its microseconds since 1970.
- Text that can be read as a number, a boolean or a date has the bits of that value. So 1,
  1.0, true and "1" are all represented by the float 1.0.
- Any other text has the bits of a hash.
- Beyond 2^53, several integers are rounded to the same float. What was lost by rounding is
  added to the bits, which tells these integers apart.

`encode_column` and `encode_text` must both follow these rules.
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

# A model knows columns of these types only. A boolean is a number.
NUMBER = pl.Float64()
DATE = pl.Datetime("us")
TEXT = pl.String()

NUMBER_PATTERN = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
INTEGER_PATTERN = r"[+-]?[0-9]{1,19}"
DATE_PATTERN = r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?)?"

Bits = npt.NDArray[np.uint64]


# The rules. `evaluate` calls `groups` and `held_out` of rules that were saved with earlier
# models, so these methods must keep their names.


@dataclass(frozen=True)
class Split:
    """A rule that holds out a share of the rows at random.

    Rows that are equal in the columns `by` form a group, and are held out together. About
    the share `fraction` of all groups is held out. Another `seed` holds out other groups.

    Some classes of the column `target` may have a fraction of their own, which is given by
    `class_fractions`.
    """

    by: list[str]
    seed: int
    fraction: float
    target: str = ""
    class_fractions: dict[str, float] = field(default_factory=dict)

    def groups(self, table: pl.DataFrame) -> Bits:
        """Return the group of each row: an evenly distributed number of 64 bits."""
        total = np.zeros(len(table), np.uint64)
        for name in self.by:
            values = get_column(table, name)
            if values.dtype.is_float():
                values = values.fill_nan(None)
            bits = encode_column(values) + np.uint64(hash_text(name))
            # A missing value adds nothing, so a new column without values changes no group.
            total += np.where(values.is_null(), np.uint64(0), scatter_bits(bits))
        return scatter_bits(total + np.uint64(hash_text(f"seed {self.seed}")))

    def positions(self, table: pl.DataFrame) -> npt.NDArray[np.float64]:
        """Return the position of each row: its group, as a number between 0 and 1.

        A row is held out if its position is below the fraction.
        """
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


@dataclass(frozen=True)
class TimeSplit:
    """A rule that holds out the rows of a date and of all later dates.

    `column` names the column of dates. `start` is the first date or time that is held out,
    in ISO 8601. Rows without a date are not held out.

    As in `Split`, rows that are equal in the columns `by` form a group. Here, groups do not
    decide what is held out, but the evaluation needs them.
    """

    by: list[str]
    seed: int
    column: str
    start: str

    def groups(self, table: pl.DataFrame) -> Bits:
        """Return the group of each row: an evenly distributed number of 64 bits."""
        return Split(self.by, self.seed, fraction=0).groups(table)

    def held_out(self, table: pl.DataFrame) -> npt.NDArray[np.bool_]:
        """Return whether each row is held out."""
        start = datetime.fromisoformat(self.start)
        is_held_out = get_column(table, self.column).cast(DATE) >= start
        return is_held_out.fill_null(value=False).to_numpy()


# The bits of values


def encode_column(values: pl.Series) -> Bits:
    """Return the bits of each value in a column, by the rules of this module.

    The bits of a missing value have no meaning.
    """
    if values.dtype == TEXT:
        return _encode_text_column(values)

    if values.dtype.is_temporal():
        values = values.cast(DATE).to_physical()
    values = values.fill_null(0)
    floats = values.cast(NUMBER)
    # Adding 0.0 makes -0.0 the same as 0.0.
    bits = (floats.to_numpy() + 0.0).view(np.uint64)

    if values.dtype.is_integer():
        rounding = values.cast(pl.Int128) - floats.cast(pl.Int128)
        # A negative number becomes a large positive one. The sum is the same, because
        # sums of 64-bit integers wrap around.
        bits += rounding.cast(pl.Int64).to_numpy().astype(np.uint64)
    return bits


def _encode_text_column(values: pl.Series) -> Bits:
    """Return the bits of each text. Every distinct text is encoded only once."""
    values = values.fill_null("")
    distinct_texts = values.unique()
    bits = pl.Series([encode_text(text) for text in distinct_texts], dtype=pl.UInt64)
    return values.replace_strict(distinct_texts, bits).cast(pl.UInt64).to_numpy()


def encode_text(text: str) -> int:
    """Return the bits of one text, by the rules of this module."""
    digit_of_boolean = {"true": "1", "false": "0"}
    text = digit_of_boolean.get(text.lower(), text)

    if re.fullmatch(INTEGER_PATTERN, text):
        number = float(text)
        return _encode_number(number, rounding=int(text) - int(number))
    if re.fullmatch(NUMBER_PATTERN, text):
        return _encode_number(float(text))
    if re.fullmatch(DATE_PATTERN, text):
        # "2024-02-31" matches the pattern without being a date, and stays text.
        with suppress(ValueError):
            microseconds = np.datetime64(text, "us").astype(np.int64)
            return _encode_number(float(microseconds))
    return hash_text(text)


def _encode_number(number: float, rounding: int = 0) -> int:
    """Return the bits of a number, plus what was lost when it was rounded to a float."""
    # Adding 0.0 makes -0.0 the same as 0.0.
    bits = int(np.float64(number + 0.0).view(np.uint64))
    # Python's integers have no limit. The sum wraps around as it does in `encode_column`.
    return (bits + rounding) % 2**64


def hash_text(text: str) -> int:
    """Return a hash of 64 bits, which is the same on every machine."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def scatter_bits(bits: Bits) -> Bits:
    """Return numbers in which every bit depends on all bits of the input.

    This is the finalizer of the random number generator SplitMix64.
    """
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def get_column(table: pl.DataFrame, name: str) -> pl.Series:
    """Return a column without its name.

    polars takes a name such as `^a$` for a pattern when the column is used again.
    """
    return table[name].alias("")
