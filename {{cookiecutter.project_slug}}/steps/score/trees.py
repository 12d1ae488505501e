"""Predict with scikit-learn's gradient-boosted trees by table lookup.

The predictions are the same as those of scikit-learn, bit for bit. scikit-learn walks each
row down each tree. That is slow, because a processor cannot guess whether the next step
goes left or right. The lookup in this module follows QuickScorer (Lucchese et al., 2015,
"QuickScorer: A fast algorithm to rank documents with additive ensembles of regression
trees"), and needs no walk:

- The leaves of a tree are numbered from left to right. A set of leaves is stored as an
  integer of 32 or 64 bits, called a word: bit i is 1 if leaf i belongs to the set.
- A row that goes left at a branch cannot end in a leaf on the right of this branch, and
  the other way round. So the value of one feature rules some leaves out.
- A table holds, for every feature and every kind of value, the word of the leaves that
  this value still allows. The words of all features are combined by AND. Exactly one bit
  remains: the leaf in which the walk would have ended.

An example is this tree with three leaves. Its words are written with leaf 2 first:

    x <= 5 ?
      yes: leaf 0
      no:  y <= 3 ?
             yes: leaf 1
             no:  leaf 2

    feature    value         leaves that it allows
    x          5 or less     001
    x          more than 5   110
    y          3 or less     011  (if the walk comes to this branch, it ends in leaf 1)
    y          more than 3   101

For x = 7 and y = 2, `110 & 011` is `010`: the row ends in leaf 1.

The kinds of values of a feature are numbered. The number of a value's kind is called its
code, and is the row of the table in which its word is found: here, x has the code 0 up to
5, and the code 1 above. The words of several trees are stored side by side, as a group of
trees, so that a single operation handles all of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from sklearn.pipeline import Pipeline

# This many rows are looked up at once. Their codes fit into the processor's cache.
ROWS_AT_ONCE = 4096
# The words of a group of trees have this size in total, for each row.
BYTES_AT_ONCE = 32
# The largest word has 64 bits, so a tree cannot have more leaves.
MOST_LEAVES = 64
# scikit-learn numbers the categories of a feature from 0 up to this number.
MOST_CATEGORIES = 255
# With larger tables, looking up takes longer than walking.
MOST_TABLE_BYTES = 2**26
TRIAL_ROWS = 1000

Array = npt.NDArray[Any]
# A fitted HistGradientBoostingClassifier or -Regressor. scikit-learn has no types.
BoostedModel = Any
# A TreePredictor of scikit-learn: one tree, with its nodes as an array of records.
Tree = Any


class UnsupportedModel(Exception):
    """The trees of a model cannot be looked up in tables. The message says why."""


def use_lookup_tables(model: Any) -> None:
    """Replace the tree traversal of a model by an equivalent table lookup.

    `model` is a scikit-learn estimator, or a pipeline that ends in one. Raises
    UnsupportedModel, and leaves the model as it is, if its trees cannot be looked up.
    """
    boosted = model[-1] if isinstance(model, Pipeline) else model
    if not isinstance(
        boosted, (HistGradientBoostingClassifier, HistGradientBoostingRegressor)
    ):
        raise UnsupportedModel(
            f"tables can replace the trees of HistGradientBoosting models only, and this"
            f" is a {type(boosted).__name__}"
        )
    try:
        tables = LookupTables(boosted)
        is_equivalent = _agrees_on_trial_rows(tables, boosted)
    except (AttributeError, IndexError, TypeError) as error:
        # The private attributes of the trees may differ in another scikit-learn.
        raise UnsupportedModel(
            f"this version of scikit-learn stores its trees in another form ({error})"
        ) from None
    if not is_equivalent:
        raise UnsupportedModel(
            "the tables predict other values than scikit-learn for trial rows"
        )
    boosted._predict_iterations = tables.add_predictions


def _agrees_on_trial_rows(tables: LookupTables, boosted: BoostedModel) -> bool:
    """Return whether the lookup predicts exactly what scikit-learn does for trial rows."""
    rows = tables.make_trial_rows()
    by_walking = np.zeros((len(rows), boosted.n_trees_per_iteration_))
    by_lookup = np.zeros_like(by_walking)
    boosted._predict_iterations(rows, boosted._predictors, by_walking, False, 1)
    tables.add_predictions(rows, boosted._predictors, by_lookup)
    return np.array_equal(by_walking, by_lookup)


class TreeGroup(NamedTuple):
    """The tables of several trees, whose words are stored side by side."""

    #: A word for each tree, in which the bits of all its leaves are set.
    all_leaves: Array
    #: By feature, a table with a row for each code of a value and a column for each tree:
    #: the word of the leaves in which a row with this value can end.
    allowed_leaves: dict[int, Array]
    #: A row for each tree, with what each of its leaves adds to the prediction.
    leaf_values: Array


class LookupTables:
    """The lookup tables of a model, and the codes by which values are looked up.

    A code is the row of a feature's table in which the word of a value is found:

    - The code of a category is the number of the category.
    - The code of a number is how many thresholds of the feature are below it. So two
      numbers have the same code if no threshold of any tree lies between them. With n
      thresholds, the codes are 0 to n.
    - The code of a missing value follows the last one of the other values: it is n + 1,
      or the number of all categories.
    """

    def __init__(self, boosted: BoostedModel) -> None:
        trees = [tree for iteration in boosted._predictors for tree in iteration]
        most_leaves = max(tree.get_n_leaf_nodes() for tree in trees)
        if most_leaves > MOST_LEAVES:
            raise UnsupportedModel(
                f"one of its trees has {most_leaves} leaves, and tables can hold trees"
                f" of up to {MOST_LEAVES} leaves"
            )

        #: The trees of an iteration: one for each class, or one for a number.
        self.trees_per_iteration = boosted.n_trees_per_iteration_
        self.word = np.dtype(np.uint32 if most_leaves <= 32 else np.uint64)
        nodes = np.concatenate([tree.nodes for tree in trees])
        branches = nodes[nodes["is_leaf"] == 0]
        #: By numerical feature, the thresholds of all branches, in rising order.
        self.thresholds = list_thresholds(branches)
        #: By categorical feature, whether each category was seen in training.
        self.is_known_category = list_known_categories(branches, boosted)
        self.groups = self._build_groups(trees)

    def _build_groups(self, trees: list[Tree]) -> list[TreeGroup]:
        """Return the tables of all trees. Raises UnsupportedModel if they are too large."""
        trees_at_once = BYTES_AT_ONCE // self.word.itemsize
        groups = []
        table_bytes = 0
        for start in range(0, len(trees), trees_at_once):
            group = self._build_group(trees[start : start + trees_at_once])
            groups.append(group)
            table_bytes += sum(table.nbytes for table in group.allowed_leaves.values())
            if table_bytes > MOST_TABLE_BYTES:
                raise UnsupportedModel(
                    "it has so many trees and features that the tables would be larger"
                    f" than {MOST_TABLE_BYTES >> 20} MiB"
                )
        return groups

    def _build_group(self, trees: list[Tree]) -> TreeGroup:
        """Return the tables of one group of trees.

        A branch rules out the leaves on its right for all codes that go left, and the
        leaves on its left for all other codes. A code allows the leaves that no branch on
        its feature rules out.
        """
        all_leaves = np.ones(len(trees), self.word)
        leaf_values = np.zeros((len(trees), 8 * self.word.itemsize))
        # By feature, a table such as those of TreeGroup, of the leaves that are ruled out.
        ruled_out_leaves: dict[int, Array] = {}

        for column, tree in enumerate(trees):
            layout = read_layout(tree.nodes)
            for branch in layout.branches:
                feature = branch.node["feature_idx"]
                goes_left = self._goes_left(branch.node, tree.raw_left_cat_bitsets)
                if feature not in ruled_out_leaves:
                    shape = (len(goes_left), len(trees))
                    ruled_out_leaves[feature] = np.zeros(shape, self.word)
                out_of_reach = np.where(
                    goes_left, branch.right_leaves, branch.left_leaves
                )
                ruled_out_leaves[feature][:, column] |= out_of_reach
            number_of_leaves = len(layout.leaf_values)
            all_leaves[column] = set_bits(0, number_of_leaves)
            leaf_values[column, :number_of_leaves] = layout.leaf_values

        allowed_leaves = {
            feature: all_leaves & ~ruled_out
            for feature, ruled_out in ruled_out_leaves.items()
        }
        return TreeGroup(all_leaves, allowed_leaves, leaf_values)

    def _goes_left(self, node: Any, left_category_bits: Array) -> Array:
        """Return for each code of the node's feature whether its rows go left.

        `left_category_bits` has a row for each branch of the tree on categories, with the
        bits of the categories that go left.
        """
        feature = node["feature_idx"]
        missing_goes_left = bool(node["missing_go_to_left"])
        if node["is_categorical"]:
            # A category that was not seen in training counts as a missing value.
            is_unknown = ~self.is_known_category[feature]
            is_left = unpack_bits(left_category_bits[node["bitset_idx"]])
            goes_left = is_left | (is_unknown & missing_goes_left)
        else:
            thresholds = self.thresholds[feature]
            # A value that equals the threshold goes left, and its code is this position.
            position = np.searchsorted(thresholds, node["num_threshold"])
            codes = np.arange(len(thresholds) + 1)
            goes_left = codes <= position
        # The last code is the one of a missing value.
        return np.append(goes_left, missing_goes_left)

    def encode(self, rows: Array) -> dict[int, Array]:
        """Convert the values of rows to codes.

        Returns an array for each feature that the trees use. It holds the code of the
        feature's value in each row.
        """
        codes = {}
        for feature, thresholds in self.thresholds.items():
            values = rows[:, feature]
            # This counts the thresholds below each value. The result is 0 to n for n
            # thresholds, so n + 1 is free for missing values.
            codes_of_feature = np.searchsorted(thresholds, values)
            codes_of_feature[np.isnan(values)] = len(thresholds) + 1
            codes[feature] = codes_of_feature
        for feature, is_known in self.is_known_category.items():
            values = rows[:, feature]
            missing_code = len(is_known)
            # A missing value is NaN, and NaN >= 0 is false.
            category_or_missing = np.where(values >= 0, values, missing_code)
            codes[feature] = category_or_missing.astype(np.intp)
        return codes

    def add_predictions(self, rows: Array, _: Any, sums: Array, *more: Any) -> None:
        """Add the values of the leaves in which each row ends to its `sums`, in place.

        `sums` has a row for each of `rows`, and a column for each tree of an iteration.
        The values are added in the order of the trees, as scikit-learn does, because the
        order decides about the last bit of a sum. This method replaces one of
        scikit-learn, whose further arguments (the trees, and the number of threads) are
        not needed.
        """
        for start in range(0, len(rows), ROWS_AT_ONCE):
            batch = slice(start, start + ROWS_AT_ONCE)
            codes = self.encode(rows[batch])
            totals = np.ascontiguousarray(sums[batch].T)
            rows_in_batch = totals.shape[1]
            tree_number = 0
            for group in self.groups:
                leaves_of_trees = _find_leaves(group, codes, rows_in_batch)
                for leaf_values, leaves in zip(group.leaf_values, leaves_of_trees):
                    column = tree_number % self.trees_per_iteration
                    # "clip" would read a number beyond the last leaf as the last one. But
                    # every number is that of an existing leaf.
                    totals[column] += leaf_values.take(leaves, mode="clip")
                    tree_number += 1
            sums[batch] = totals.T

    def make_trial_rows(self) -> Array:
        """Return random rows for comparing the table lookup with scikit-learn's tree walk.

        Their values are those at which an error would show: the thresholds with the nearest
        numbers on both sides, every category that a model can have, and missing values.
        """
        random = np.random.default_rng(0)
        used_features = [*self.thresholds, *self.is_known_category]
        number_of_features = max(used_features, default=0) + 1
        rows = np.full((TRIAL_ROWS, number_of_features), np.nan)
        for feature, thresholds in self.thresholds.items():
            below = np.nextafter(thresholds, -np.inf)
            above = np.nextafter(thresholds, np.inf)
            values = [np.nan, *below, *thresholds, *above]
            rows[:, feature] = random.choice(values, len(rows))
        for feature in self.is_known_category:
            values = [np.nan, *range(MOST_CATEGORIES)]
            rows[:, feature] = random.choice(values, len(rows))
        return rows


def list_thresholds(branches: Array) -> dict[int, Array]:
    """Return the thresholds of each numerical feature, in rising order."""
    numerical = branches[branches["is_categorical"] == 0]
    return {
        feature: np.unique(
            numerical["num_threshold"][numerical["feature_idx"] == feature]
        )
        for feature in np.unique(numerical["feature_idx"])
    }


def list_known_categories(branches: Array, boosted: BoostedModel) -> dict[int, Array]:
    """Return for each categorical feature which categories were seen in training."""
    category_bits, row_of_feature = boosted._bin_mapper.make_known_categories_bitsets()
    categorical = branches[branches["is_categorical"] != 0]
    return {
        feature: unpack_bits(category_bits[row_of_feature[feature]])
        for feature in np.unique(categorical["feature_idx"])
    }


def _find_leaves(group: TreeGroup, codes: dict[int, Array], rows: int) -> Array:
    """Find the number of the leaf in which each row ends, for each tree of a group.

    Returns an array with a row for each tree and a column for each of the `rows`. The
    number of rows is an argument, because `codes` is empty if no tree has a branch.
    """
    possible_leaves = np.broadcast_to(
        group.all_leaves, (rows, len(group.all_leaves))
    ).copy()
    for feature, table in group.allowed_leaves.items():
        # This takes from the table, for each row, the words that belong to its code. With
        # "clip", numpy reads a code beyond the end of the table, such as an impossible
        # category, as the last code: that of a missing value.
        allowed_leaves = table.take(codes[feature], axis=0, mode="clip")
        possible_leaves &= allowed_leaves

    # Each element of `possible_leaves` is the word of one row and one tree, in which now
    # only the bit of the leaf is set. Subtracting 1 sets exactly the bits below it, so
    # their count is the number of the leaf: 0100 - 1 = 0011 has two bits, for leaf 2.
    bits_below = possible_leaves - possible_leaves.dtype.type(1)
    leaves: Array = np.bitwise_count(bits_below).T
    return leaves


class Branch(NamedTuple):
    """An inner node of a tree, and the words of the leaves on its left and its right."""

    node: Any
    left_leaves: np.uint64
    right_leaves: np.uint64


class TreeLayout(NamedTuple):
    """The branches of a tree, and the values of its leaves from left to right.

    The position of a value is the number of its leaf, and of the leaf's bit in a word.
    """

    branches: list[Branch]
    leaf_values: list[float]


def read_layout(nodes: Array) -> TreeLayout:
    """Return the branches and the leaves of a tree. The first node is its root."""
    branches: list[Branch] = []
    leaf_values: list[float] = []

    def visit(position: int) -> None:
        """Append the branches and the leaves at and below a node."""
        node = nodes[position]
        if node["is_leaf"]:
            leaf_values.append(node["value"])
            return
        first_left_leaf = len(leaf_values)
        visit(node["left"])
        first_right_leaf = len(leaf_values)
        visit(node["right"])
        end = len(leaf_values)
        branches.append(
            Branch(
                node,
                left_leaves=set_bits(first_left_leaf, first_right_leaf),
                right_leaves=set_bits(first_right_leaf, end),
            )
        )

    visit(0)
    return TreeLayout(branches, leaf_values)


def unpack_bits(words: Array) -> npt.NDArray[np.bool_]:
    """Return a boolean for each bit of some 32-bit integers, beginning with the lowest."""
    octets = words.astype("<u4").view(np.uint8)
    return np.unpackbits(octets, bitorder="little").astype(bool)


def set_bits(start: int, end: int) -> np.uint64:
    """Return a word in which the bits `start` to `end - 1` are set."""
    return np.uint64(2**end - 2**start)
