"""Predictions of scikit-learn's gradient-boosted trees by table lookup, bit for bit.

scikit-learn walks each row down each tree, and a processor cannot guess the way. Here the
leaves of a tree are the bits of a word, from left to right. The value of a row in one
feature rules some leaves out: a table tells which are left. The one bit that all features
leave is the row's leaf. Several trees, whose words stand side by side, are
looked up together. (After QuickScorer: Lucchese et al., 2015.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from sklearn.pipeline import Pipeline

# Rows that are looked up at once: their codes stay in the processor's cache.
ROWS_AT_ONCE = 4096
BYTES_AT_ONCE = 32  # of the words of trees that are looked up together
MOST_LEAVES = 64  # as many as a word has bits
# With larger tables, looking up takes longer than walking.
MOST_TABLE_BYTES = 2**26
TRIAL_ROWS = 1000

Array = npt.NDArray[Any]
# Either of the models above; scikit-learn has no types.
Trees = Any


class UnsupportedModel(Exception):
    """The trees of a model cannot be looked up in tables; the message says why."""


def use_lookup_tables(model: Any) -> None:
    """Replace the tree traversal of a model by an equivalent table lookup.

    Raises UnsupportedModel if the model is of another kind; then it is left as it is.
    """
    trees = model[-1] if isinstance(model, Pipeline) else model
    if not isinstance(
        trees, (HistGradientBoostingClassifier, HistGradientBoostingRegressor)
    ):
        raise UnsupportedModel(
            f"{type(trees).__name__} is not one of the trees known here"
        )
    try:
        tables = LookupTables(trees)
        is_equivalent = _agrees_on_trial_rows(tables, trees)
    except (AttributeError, IndexError, TypeError) as error:
        # The inner parts of the trees may be others in another scikit-learn.
        raise UnsupportedModel(
            f"this scikit-learn is not known here: {error}"
        ) from None
    if not is_equivalent:
        raise UnsupportedModel("its trees are not what is known here")
    trees._predict_iterations = tables.add_predictions


def _agrees_on_trial_rows(tables: LookupTables, trees: Trees) -> bool:
    """Return whether the lookup gives exactly what scikit-learn gives for trial rows."""
    rows = tables.make_trial_rows()
    by_walking = np.zeros((len(rows), trees.n_trees_per_iteration_))
    by_lookup = np.zeros_like(by_walking)
    trees._predict_iterations(rows, trees._predictors, by_walking, False, 1)
    tables.add_predictions(rows, trees._predictors, by_lookup)
    return np.array_equal(by_walking, by_lookup)


class TreeGroup(NamedTuple):
    """Several trees that are looked up together.

    `all_leaves` has the word of each tree with a bit for each leaf. `leaves_left` has,
    for each feature, a row of words for each code of its values. `leaf_values` has the
    values of the leaves for each tree.
    """

    all_leaves: Array
    leaves_left: dict[int, Array]
    leaf_values: Array


class LookupTables:
    """The tables of a model: which leaves each value of each feature leaves.

    The values of a feature are coded. Those of a category are their own codes. Those of
    a number are alike between two thresholds of the trees, so the code is the position
    between these. The last code of a feature is that of a missing value.
    """

    def __init__(self, trees: Trees) -> None:
        flat = [tree for iteration in trees._predictors for tree in iteration]
        most_leaves = max(tree.get_n_leaf_nodes() for tree in flat)
        if most_leaves > MOST_LEAVES:
            raise UnsupportedModel(
                f"a tree has {most_leaves} leaves, and the most are {MOST_LEAVES}"
            )
        self.outputs = trees.n_trees_per_iteration_
        self.word = np.dtype(np.uint32 if most_leaves <= 32 else np.uint64)
        self.known_categories: dict[int, Array] = {}
        self.thresholds: dict[int, Array] = {}
        self._collect_codes(trees, flat)
        self.groups = self._build_groups(flat)

    def _collect_codes(self, trees: Trees, flat: list[Any]) -> None:
        """Find the known categories or the thresholds of each feature that is used."""
        bitsets, bitset_of_feature = trees._bin_mapper.make_known_categories_bitsets()
        nodes = np.concatenate([tree.nodes for tree in flat])
        branches = nodes[nodes["is_leaf"] == 0]
        for feature in np.unique(branches["feature_idx"]):
            of_feature = branches[branches["feature_idx"] == feature]
            if of_feature["is_categorical"].any():
                bitset = bitsets[bitset_of_feature[feature]]
                self.known_categories[feature] = unpack_bits(bitset)
            else:
                self.thresholds[feature] = np.unique(of_feature["num_threshold"])

    def _build_groups(self, flat: list[Any]) -> list[TreeGroup]:
        """Return the tables of all trees. Raises UnsupportedModel if they are too large."""
        trees_at_once = BYTES_AT_ONCE // self.word.itemsize
        groups = []
        table_bytes = 0
        for start in range(0, len(flat), trees_at_once):
            group = self._build_group(flat[start : start + trees_at_once])
            groups.append(group)
            table_bytes += sum(table.nbytes for table in group.leaves_left.values())
            if table_bytes > MOST_TABLE_BYTES:
                raise UnsupportedModel("its trees are too many, or its features")
        return groups

    def _build_group(self, trees: list[Any]) -> TreeGroup:
        """Return the tables of some trees that are looked up together."""
        all_leaves = np.ones(len(trees), self.word)
        leaf_values = np.zeros((len(trees), 8 * self.word.itemsize))
        ruled_out: dict[int, Array] = {}
        for i, tree in enumerate(trees):
            values: list[float] = []
            for branch in list_branches(tree.nodes, 0, values):
                feature = branch.node["feature_idx"]
                goes_left = self._goes_left(branch.node, tree.raw_left_cat_bitsets)
                if feature not in ruled_out:
                    shape = (len(goes_left), len(trees))
                    ruled_out[feature] = np.zeros(shape, self.word)
                # A row that goes left cannot end in a leaf on the right.
                other_side = np.where(goes_left, branch.right, branch.left)
                ruled_out[feature][:, i] |= other_side
            all_leaves[i] = set_bits(0, len(values))
            leaf_values[i, : len(values)] = values
        leaves_left = {
            feature: all_leaves & ~leaves for feature, leaves in ruled_out.items()
        }
        return TreeGroup(all_leaves, leaves_left, leaf_values)

    def _goes_left(self, node: Any, left_bitsets: Array) -> Array:
        """Return whether each code of the node's feature goes left."""
        feature = node["feature_idx"]
        missing_goes_left = bool(node["missing_go_to_left"])
        if node["is_categorical"]:
            # An unknown category counts as a missing value.
            is_unknown = ~self.known_categories[feature]
            is_left = unpack_bits(left_bitsets[node["bitset_idx"]])
            goes_left = is_left | (is_unknown & missing_goes_left)
        else:
            thresholds = self.thresholds[feature]
            position = np.searchsorted(thresholds, node["num_threshold"])
            goes_left = np.arange(len(thresholds) + 1) <= position
        return np.append(goes_left, missing_goes_left)

    def encode(self, rows: Array) -> dict[int, Array]:
        """Return the code of each row's value, for each feature that a tree asks for."""
        codes = {}
        for feature, thresholds in self.thresholds.items():
            values = rows[:, feature]
            codes[feature] = np.searchsorted(thresholds, values)
            codes[feature][np.isnan(values)] = len(thresholds) + 1
        for feature, known in self.known_categories.items():
            values = rows[:, feature]
            # A missing value is NaN, which is not >= 0.
            codes[feature] = np.where(values >= 0, values, len(known)).astype(np.intp)
        return codes

    def add_predictions(self, rows: Array, _: Any, sums: Array, *more: Any) -> None:
        """Add to each row's sums the values of its leaves, in the order of the trees.

        It is called in place of scikit-learn's method, whose further arguments (the
        trees, and how many threads to use) are not needed.
        """
        for start in range(0, len(rows), ROWS_AT_ONCE):
            batch = slice(start, start + ROWS_AT_ONCE)
            codes = self.encode(rows[batch])
            totals = np.ascontiguousarray(sums[batch].T)
            tree = 0
            for group in self.groups:
                for leaf_values, leaves in zip(
                    group.leaf_values, _find_leaves(group, codes, totals.shape[1])
                ):
                    totals[tree % self.outputs] += leaf_values.take(leaves, mode="clip")
                    tree += 1
            sums[batch] = totals.T

    def make_trial_rows(self) -> Array:
        """Return rows with values at and beside thresholds, categories and missing ones."""
        random = np.random.default_rng(0)
        features = max([*self.thresholds, *self.known_categories], default=0) + 1
        rows = np.full((TRIAL_ROWS, features), np.nan)
        for feature, thresholds in self.thresholds.items():
            below = np.nextafter(thresholds, -np.inf)
            above = np.nextafter(thresholds, np.inf)
            values = [np.nan, *below, *thresholds, *above]
            rows[:, feature] = random.choice(values, len(rows))
        for feature in self.known_categories:
            rows[:, feature] = random.choice([np.nan, *range(255)], len(rows))
        return rows


def _find_leaves(group: TreeGroup, codes: dict[int, Array], rows: int) -> Array:
    """Return the number of the leaf in which each row ends, for each tree of a group."""
    leaves_left = np.broadcast_to(
        group.all_leaves, (rows, len(group.all_leaves))
    ).copy()
    for feature, table in group.leaves_left.items():
        leaves_left &= table.take(codes[feature], axis=0, mode="clip")
    # One bit of each word is left. One less than the word has all bits below it set, so
    # their number is the position of that bit.
    bits_below = leaves_left - leaves_left.dtype.type(1)
    leaves: Array = np.bitwise_count(bits_below).T
    return leaves


class Branch(NamedTuple):
    """A node of a tree that is no leaf, with the bits of the leaves on either side."""

    node: Any
    left: np.uint64
    right: np.uint64


def list_branches(nodes: Array, start: int, values: list[float]) -> Iterator[Branch]:
    """Yield the branches at and below a node, and append the values of its leaves.

    The leaves are appended to `values` from left to right, so that the position of a
    leaf in the whole tree is its bit.
    """
    node = nodes[start]
    if node["is_leaf"]:
        values.append(node["value"])
        return
    first_leaf = len(values)
    yield from list_branches(nodes, node["left"], values)
    middle = len(values)
    yield from list_branches(nodes, node["right"], values)
    yield Branch(
        node,
        left=set_bits(first_leaf, middle),
        right=set_bits(middle, len(values)),
    )


def unpack_bits(words: Array) -> npt.NDArray[np.bool_]:
    """Return whether each bit of some words of 32 bits is set, from the lowest on."""
    octets = words.astype("<u4").view(np.uint8)
    return np.unpackbits(octets, bitorder="little").astype(bool)


def set_bits(start: int, end: int) -> np.uint64:
    """Return a word in which the bits from `start` to before `end` are set."""
    return np.uint64(2**end - 2**start)
