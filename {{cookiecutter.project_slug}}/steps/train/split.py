"""Decide which rows are held out from training, by a hash of their values.

The decision for a row depends only on the values of this row. It is the same on every
machine, in every run and for every file format. Do not change what this module computes:
two models can only be compared if they agree on which rows are held out.

Each value is turned into 64 bits. The type of a column may change when data is added, so
equal values have the same bits in every type:

- A number has the bits of a 64-bit float. A boolean counts as 1 or 0, and a date as the
  number of its microseconds since 1970.
- Text that can be read as a number, a boolean or a date has the bits of that value. So 1,
  1.0, true and "1" are all represented by the float 1.0.
- Any other text has the bits of a hash.
- Beyond 2^53, several integers are rounded to the same float. The rounding error is added
  to the bits, which tells these integers apart.

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

# A number such as "7", "-7.5", ".5" or "1e-3".
NUMBER_PATTERN = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
# An integer of up to 19 digits, which are as many as the largest 64-bit integer has.
INTEGER_PATTERN = r"[+-]?[0-9]{1,19}"
# A date or a time such as "2024-12-31", "2024-12-31 23:59" or "2024-12-31T23:59:59.5".
DATE_PATTERN = r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?)?"
DIGIT_OF_BOOLEAN = {"true": "1", "false": "0"}

# 64 bits for each value of a column, as unsigned integers.
Bits = npt.NDArray[np.uint64]


# The rules by which rows are held out. They are saved with the models. The step `evaluate`
# calls `groups` and `held_out` of the rules of earlier models, so these methods must keep
# their names.


@dataclass(frozen=True)
class Split:
    """A rule that holds out a share of the rows at random.

    Rows that are equal in the columns `by` form a group, and are held out together. About
    the share `fraction` of all groups is held out. Another `seed` holds out other groups.

    For some classes of the column `target`, `class_fractions` has another fraction. It is
    used for their rows instead of `fraction`.
    """

    by: list[str]
    seed: int
    fraction: float
    target: str = ""
    class_fractions: dict[str, float] = field(default_factory=dict)

    def groups(self, table: pl.DataFrame) -> Bits:
        """Return the group of each row, as a 64-bit number.

        Rows of one group have the same number. The numbers are evenly distributed.
        """
        group_hashes = np.zeros(len(table), np.uint64)
        for name in self.by:
            values = get_column(table, name)
            if values.dtype.is_float():
                values = values.fill_nan(None)
            # The hash of the name is added, so that equal values in two columns differ.
            bits = encode_column(values) + np.uint64(hash_text(name))
            # `scatter_bits` turns similar values into very different numbers, so that sums
            # of different rows are hardly ever equal.
            value_hashes = scatter_bits(bits)
            # A missing value adds nothing, so a new column without values changes no group.
            group_hashes += np.where(values.is_null(), np.uint64(0), value_hashes)
        # The seed is added before the bits are scattered, so another seed gives entirely
        # different numbers.
        return scatter_bits(group_hashes + np.uint64(hash_text(f"seed {self.seed}")))

    def positions(self, table: pl.DataFrame) -> npt.NDArray[np.float64]:
        """Return the position of each row: the number of its group, scaled to 0 up to 1.

        A row is held out if its position is below the fraction.
        """
        # A float holds 53 bits exactly, so the lowest 11 of the 64 bits are left out.
        return np.asarray((self.groups(table) >> np.uint64(11)) * 2.0**-53)

    def held_out(self, table: pl.DataFrame) -> npt.NDArray[np.bool_]:
        """Return a mask of the rows that are held out."""
        fractions = np.full(len(table), self.fraction)
        if self.class_fractions:
            classes = get_column(table, self.target).cast(TEXT)
            for name, fraction in self.class_fractions.items():
                is_of_class = (classes == name).fill_null(value=False)
                fractions[is_of_class.to_numpy()] = fraction
        return np.asarray(self.positions(table) < fractions)


@dataclass(frozen=True)
class TimeSplit:
    """A rule that holds out all rows from a date on.

    `column` names the column of dates. `start` is the first date or time that is held out,
    in ISO 8601. Rows without a date are not held out.

    As in `Split`, rows that are equal in the columns `by` form a group. The groups do not
    decide which rows are held out, but the evaluation needs them.
    """

    by: list[str]
    seed: int
    column: str
    start: str

    def groups(self, table: pl.DataFrame) -> Bits:
        """Return the same numbers of groups as `Split.groups`."""
        return Split(self.by, self.seed, fraction=0).groups(table)

    def held_out(self, table: pl.DataFrame) -> npt.NDArray[np.bool_]:
        """Return a mask of the rows that are held out."""
        start = datetime.fromisoformat(self.start)
        is_held_out = get_column(table, self.column).cast(DATE) >= start
        return is_held_out.fill_null(value=False).to_numpy()


# The bits of values


def encode_column(values: pl.Series) -> Bits:
    """Return 64 bits for each value of a column.

    A value has the same bits in every type of column: the integer 1, the float 1.0, the
    boolean true and the text "1" have the bits of the float 1.0. A date counts as the
    number of its microseconds since 1970. Text is encoded by `encode_text`. Several large
    integers may be rounded to the same float, so the rounding error of each is added to its
    bits.

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
        bits += _compute_rounding_errors(values, floats)
    return bits


def _compute_rounding_errors(integers: pl.Series, floats: pl.Series) -> Bits:
    """Return the difference between each integer and the float that it was rounded to.

    For example, 2^53 + 1 is rounded to 2^53, so its error is 1. Integers up to 2^53 have no
    error. A negative error is returned as the unsigned integer with the same bits. Adding
    it has the same result as adding the negative number, because sums of 64-bit integers
    wrap around.
    """
    # A float may be above the largest 64-bit integer, so 128 bits are used.
    errors = integers.cast(pl.Int128) - floats.cast(pl.Int128)
    return errors.cast(pl.Int64).to_numpy().astype(np.uint64)


def _encode_text_column(values: pl.Series) -> Bits:
    """Return the bits of each text in a column. A missing value is encoded like ""."""
    values = values.fill_null("")
    # Encoding is slow, so each distinct text is encoded only once.
    distinct_texts = values.unique()
    bits = pl.Series([encode_text(text) for text in distinct_texts], dtype=pl.UInt64)
    return values.replace_strict(distinct_texts, bits).cast(pl.UInt64).to_numpy()


def encode_text(text: str) -> int:
    """Return the 64 bits of a text.

    Text that can be read as a boolean, a number or a date has the same bits as this value
    has in `encode_column`: "1", "1.0" and "true" have the bits of the float 1.0. Any other
    text has the bits of its hash.
    """
    text = DIGIT_OF_BOOLEAN.get(text.lower(), text)

    if re.fullmatch(INTEGER_PATTERN, text):
        # Large integers lose digits as floats. Their rounding errors keep them apart. The
        # pattern allows at most 19 digits, so the float is never infinite.
        number = float(text)
        return _encode_number(number, rounding_error=int(text) - int(number))
    if re.fullmatch(NUMBER_PATTERN, text):
        return _encode_number(float(text))
    if re.fullmatch(DATE_PATTERN, text):
        # "2024-02-31" matches the pattern without being a date, and stays text.
        with suppress(ValueError):
            microseconds = np.datetime64(text, "us").astype(np.int64)
            return _encode_number(float(microseconds))
    return hash_text(text)


def _encode_number(number: float, rounding_error: int = 0) -> int:
    """Return the 64 bits of a float, plus the rounding error of the original integer.

    Integers up to 2^53, and numbers that are no integers, have no rounding error.
    """
    # Adding 0.0 makes -0.0 the same as 0.0.
    bits = int(np.float64(number + 0.0).view(np.uint64))
    # Python's integers have no limit. The remainder makes the sum wrap around as it does in
    # `encode_column`.
    return (bits + rounding_error) % 2**64


def hash_text(text: str) -> int:
    """Return a hash of 64 bits, which is the same on every machine and in every run."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def scatter_bits(bits: Bits) -> Bits:
    """Return numbers in which every bit depends on all bits of the input number.

    So even similar numbers become very different ones. This is the finalizer of the random
    number generator SplitMix64, from which the constants are taken.
    """
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def get_column(table: pl.DataFrame, name: str) -> pl.Series:
    """Return a column of a table, with an empty name.

    When a column is used again, polars may read its name as a pattern: `^a$`, for example,
    is a regular expression. An empty name is never read as a pattern.
    """
    return table[name].alias("")
