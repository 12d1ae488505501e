"""Predict with scikit-learn's gradient-boosted trees by table lookup.

The predictions are the same as those of scikit-learn, bit for bit. scikit-learn walks each
row down each tree. That is slow, because a processor cannot guess whether the next step
goes left or right. The lookup in this module follows QuickScorer (Lucchese et al., 2015,
"QuickScorer: A fast algorithm to rank documents with additive ensembles of regression
trees"), and needs no walk. The example for its terms is this tree:

    x <= 5 ?
      yes: leaf 0
      no:  y <= 3 ?
             yes: leaf 1
             no:  leaf 2

- A branch is a node that asks a question, and a leaf is an end of the tree. The leaf that a
  row reaches holds the value that the tree adds to the prediction. Leaves are numbered from
  left to right.
- A word is an integer of 32 or 64 bits that stands for a set of leaves: bit i is set (that
  is, 1) if leaf i belongs to the set. In binary, bit 0 is on the right, so the word of the
  leaves 1 and 2 is 110.
- A code is an integer that stands for all values of a feature that no branch tells apart.
  Here, x has the code 0 up to 5, and the code 1 above 5. y has the code 0 up to 3, and the
  code 1 above 3.
- A lookup table belongs to a feature. It has a line for each code, with the word of the
  leaves that a row with this code can still reach. ("Line" always means a line of a table
  here, and "row" a row of the data.)

    feature    value         code   leaves that it allows
    x          5 or less     0      001
    x          more than 5   1      110
    y          3 or less     0      011  (a row that comes to the branch on y goes left)
    y          more than 3   1      101

For each row, the words from the tables of all features are combined by AND. Exactly one bit
remains: the leaf that the walk would have reached. For x = 7 and y = 2, `110 & 011` is
`010`, so the row reaches leaf 1.

The words of several trees are stored side by side, as a group of trees, so that a single
operation handles all of them.
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
ROWS_PER_BATCH = 4096
# A line of a table has one word for each tree of a group. numpy copies lines of this size
# especially fast.
BYTES_PER_LINE = 32
# The largest word has 64 bits, so a tree cannot have more leaves.
MOST_LEAVES = 64
# scikit-learn numbers the categories of a feature from 0. All numbers are below this one.
MOST_CATEGORIES = 255
# With larger tables, looking up takes longer than walking.
MOST_TABLE_BYTES = 2**26
# The lookup is compared with scikit-learn on this many random rows.
TRIAL_ROWS = 1000

Array = npt.NDArray[Any]
# A fitted HistGradientBoostingClassifier or -Regressor. scikit-learn has no types.
BoostedModel = Any
# A TreePredictor of scikit-learn: one tree, with its nodes as an array of records.
Tree = Any


class UnsupportedModel(Exception):
    """The trees of a model cannot be looked up in tables. The message says why."""


def use_lookup_tables(model: Any) -> None:
    """Replace the tree traversal of a model with an equivalent table lookup.

    `model` is a scikit-learn estimator, or a pipeline that ends in an estimator. If its
    trees cannot be looked up, the model stays as it is, and UnsupportedModel is raised.
    """
    boosted = model[-1] if isinstance(model, Pipeline) else model
    if not isinstance(
        boosted, (HistGradientBoostingClassifier, HistGradientBoostingRegressor)
    ):
        raise UnsupportedModel(
            "only the trees of HistGradientBoosting models can be replaced with tables,"
            f" and this model is of the class {type(boosted).__name__}"
        )
    try:
        tables = LookupTables(boosted)
        is_equivalent = _agrees_on_trial_rows(tables, boosted)
    except (AttributeError, IndexError, TypeError) as error:
        # The private attributes of the trees may differ in other versions of scikit-learn.
        raise UnsupportedModel(
            f"this version of scikit-learn stores its trees in another form ({error})"
        ) from None
    if not is_equivalent:
        raise UnsupportedModel(
            "the tables and scikit-learn predict different values for trial rows"
        )
    # scikit-learn calls this method to add up the trees.
    boosted._predict_iterations = tables.add_predictions


def _agrees_on_trial_rows(tables: LookupTables, boosted: BoostedModel) -> bool:
    """Return whether the lookup predicts exactly what scikit-learn does for trial rows."""
    rows = tables.make_trial_rows()
    sums_by_walking = np.zeros((len(rows), boosted.n_trees_per_iteration_))
    sums_by_lookup = np.zeros_like(sums_by_walking)
    boosted._predict_iterations(rows, boosted._predictors, sums_by_walking, False, 1)
    tables.add_predictions(rows, boosted._predictors, sums_by_lookup)
    return np.array_equal(sums_by_walking, sums_by_lookup)


class TreeGroup(NamedTuple):
    """The lookup tables of several trees, whose words are stored side by side.

    A word is an integer whose bits stand for the leaves of one tree.
    """

    #: A word for each tree, in which the bits of all its leaves are set.
    all_leaves: Array
    #: For each feature, a table with a line for each code and a column for each tree. The
    #: words in the table are the leaves that a row of data with this code can reach.
    allowed_leaves: dict[int, Array]
    #: A line for each tree, with the value that each of its leaves adds to the prediction.
    leaf_values: Array


class LookupTables:
    """The lookup tables of a model, and the codes by which values are looked up.

    A code is an integer that stands for all values of a feature that no branch of any tree
    tells apart. It is also the position of the line to read in the feature's table:

    - The code of a category is the number that scikit-learn gives to the category, from 0.
    - The code of a numerical value is how many thresholds of the feature are smaller. Two
      values have the same code if no threshold lies between them. With n thresholds, the
      codes are 0 to n.
    - The code of a missing value is the next integer after those of all other values.
    """

    def __init__(self, boosted: BoostedModel) -> None:
        """Build the tables of a fitted model.

        Raises UnsupportedModel if a tree has more leaves than a word has bits (at most 64),
        or if the tables would be too large.
        """
        trees = [tree for iteration in boosted._predictors for tree in iteration]
        most_leaves = max(tree.get_n_leaf_nodes() for tree in trees)
        if most_leaves > MOST_LEAVES:
            raise UnsupportedModel(
                f"one of its trees has {most_leaves} leaves, but the tables can hold at"
                f" most {MOST_LEAVES}"
            )

        #: The number of trees per iteration: one for each class, or one in a regression.
        self.trees_per_iteration = boosted.n_trees_per_iteration_
        #: The type of a word: an integer in which each leaf of a tree has one bit.
        self.word_type = np.dtype(np.uint32 if most_leaves <= 32 else np.uint64)
        nodes = np.concatenate([tree.nodes for tree in trees])
        branches = nodes[nodes["is_leaf"] == 0]
        #: For each numerical feature, the thresholds of all branches, in ascending order.
        self.thresholds = list_thresholds(branches)
        #: For each categorical feature, whether each category was seen in training.
        self.is_known_category = list_known_categories(branches, boosted)
        self.groups = self._build_groups(trees)

    def _build_groups(self, trees: list[Tree]) -> list[TreeGroup]:
        """Divide the trees into groups, and return the lookup tables of each group.

        Raises UnsupportedModel if the tables of allowed leaves, which are by far the
        largest, have more than MOST_TABLE_BYTES in total.
        """
        # A line of a table holds one word (a bit mask of leaves) for each tree of the group,
        # and a line has BYTES_PER_LINE bytes.
        trees_per_group = BYTES_PER_LINE // self.word_type.itemsize
        groups = []
        table_bytes = 0
        for start in range(0, len(trees), trees_per_group):
            group = self._build_group(trees[start : start + trees_per_group])
            groups.append(group)
            table_bytes += sum(table.nbytes for table in group.allowed_leaves.values())
            if table_bytes > MOST_TABLE_BYTES:
                raise UnsupportedModel(
                    "it has so many trees and features that the tables would be larger"
                    f" than {MOST_TABLE_BYTES >> 20} MiB"
                )
        return groups

    def _build_group(self, trees: list[Tree]) -> TreeGroup:
        """Return the lookup tables of one group of trees.

        Values of a feature that no branch tells apart share a code. Each feature has a
        table with a line for each code and a column for each tree. The elements of the
        table are words: integers with one bit for each leaf of the tree. A bit is set if a
        row of data with this code can reach the leaf, that is, if no branch on this feature
        rules the leaf out.
        """
        bits_per_word = 8 * self.word_type.itemsize
        leaf_values = np.zeros((len(trees), bits_per_word))
        all_leaves = np.zeros(len(trees), self.word_type)
        # In these tables, the set bits are the leaves that are ruled out. They are inverted
        # at the end.
        ruled_out_leaves: dict[int, Array] = {}

        for column, tree in enumerate(trees):
            layout = read_layout(tree.nodes)
            leaf_count = len(layout.leaf_values)
            leaf_values[column, :leaf_count] = layout.leaf_values
            all_leaves[column] = set_bits(0, leaf_count)
            for branch in layout.branches:
                feature = branch.node["feature_idx"]
                ruled_out_by_branch = self._rule_out_leaves(branch, tree)
                if feature not in ruled_out_leaves:
                    shape = (len(ruled_out_by_branch), len(trees))
                    ruled_out_leaves[feature] = np.zeros(shape, self.word_type)
                ruled_out_leaves[feature][:, column] |= ruled_out_by_branch

        allowed_leaves = {
            feature: all_leaves & ~ruled_out
            for feature, ruled_out in ruled_out_leaves.items()
        }
        return TreeGroup(all_leaves, allowed_leaves, leaf_values)

    def _rule_out_leaves(self, branch: Branch, tree: Tree) -> Array:
        """Return the leaves that a branch makes unreachable, for each code of its feature.

        Values of a feature that no branch tells apart share a code. The result has one word
        for each code: an integer in which the bits of the unreachable leaves are set. A row
        that goes left at the branch cannot reach the leaves on the right of the branch, and
        a row that goes right cannot reach the leaves on the left.
        """
        goes_left = self._choose_directions(branch.node, tree.raw_left_cat_bitsets)
        words = np.where(goes_left, branch.right_leaves, branch.left_leaves)
        return words.astype(self.word_type)

    def _choose_directions(self, node: Any, left_category_bits: Array) -> Array:
        """Return, for each code of a branch's feature, whether rows with this code go left.

        `node` is the branch. A code stands for all values of the feature that no branch
        tells apart. For a numerical value, the code is how many thresholds of the feature
        are smaller. For a category, the code is the number that scikit-learn gives to the
        category. The last code stands for a missing value.

        `left_category_bits` has a line for each categorical branch of the tree. In this
        line, the bits of the categories that go left are set.
        """
        feature = node["feature_idx"]
        missing_goes_left = bool(node["missing_go_to_left"])
        if node["is_categorical"]:
            # A category that was not seen in training counts as a missing value.
            is_unknown = ~self.is_known_category[feature]
            # Both arrays have the same length, because scikit-learn stores one bit for each
            # possible category in both cases.
            is_left_category = unpack_bits(left_category_bits[node["bitset_idx"]])
            goes_left = is_left_category | (is_unknown & missing_goes_left)
        else:
            thresholds = self.thresholds[feature]
            # A value that equals the branch's threshold has this code. Such a value goes
            # left, and so do all smaller values.
            code_of_threshold = np.searchsorted(thresholds, node["num_threshold"])
            codes = np.arange(len(thresholds) + 1)
            goes_left = codes <= code_of_threshold
        return np.append(goes_left, missing_goes_left)

    def encode(self, rows: Array) -> dict[int, Array]:
        """Return the codes of all rows, for each feature that the trees use.

        The code of a value is the position of the line to read in the feature's lookup
        table. For a numerical value, the code is how many thresholds of the feature are
        smaller. For a category, the code is the number that scikit-learn gives to the
        category. The last code stands for a missing value. For example, if the thresholds
        are 2 and 5, the values 1, 3, 5 and NaN get the codes 0, 1, 1 and 3.
        """
        codes = {}
        for feature, thresholds in self.thresholds.items():
            values = rows[:, feature]
            # searchsorted counts the thresholds below each value. With n thresholds, the
            # count is 0 to n, so n + 1 is free for missing values.
            codes_of_feature = np.searchsorted(thresholds, values)
            codes_of_feature[np.isnan(values)] = len(thresholds) + 1
            codes[feature] = codes_of_feature
        for feature, is_known in self.is_known_category.items():
            values = rows[:, feature]
            missing_code = len(is_known)
            # A missing value is NaN, and NaN >= 0 is false. As in scikit-learn, a negative
            # number counts as a missing category.
            category_or_missing = np.where(values >= 0, values, missing_code)
            codes[feature] = category_or_missing.astype(np.intp)
        return codes

    def add_predictions(
        self, rows: Array, _trees: Any, sums: Array, *_ignored: Any
    ) -> None:
        """Add the predictions of all trees for each row to `sums`, in place.

        `sums` has a line for each of `rows` and a column for each class, or a single column
        in a regression. Each iteration of the training has added one tree per column. The
        trees are added in the same order as in scikit-learn, because the order affects the
        last bit of a sum.

        This method replaces a method of scikit-learn, so it has the same arguments. The
        trees and the number of threads are not needed.
        """
        for start in range(0, len(rows), ROWS_PER_BATCH):
            batch = slice(start, start + ROWS_PER_BATCH)
            codes = self.encode(rows[batch])
            # The transposed sums have a line for each class. The sums of a class are then
            # side by side in memory, where numpy adds the values of a tree faster.
            sums_by_class = np.ascontiguousarray(sums[batch].T)
            rows_in_batch = sums_by_class.shape[1]
            tree_number = 0
            for group in self.groups:
                leaves_of_trees = _find_leaves(group, codes, rows_in_batch)
                for leaf_values, leaves in zip(group.leaf_values, leaves_of_trees):
                    class_number = tree_number % self.trees_per_iteration
                    # With "clip", numpy does not check the leaf numbers, which are always
                    # valid. This saves time.
                    sums_by_class[class_number] += leaf_values.take(leaves, mode="clip")
                    tree_number += 1
            sums[batch] = sums_by_class.T

    def make_trial_rows(self) -> Array:
        """Return random rows for comparing the table lookup with scikit-learn's tree walk.

        The rows have the values at which an error would show: each threshold and the floats
        next to it, every possible number of a category, and missing values.
        """
        generator = np.random.default_rng(0)
        used_features = [*self.thresholds, *self.is_known_category]
        # No tree reads the features after the last used feature.
        feature_count = max(used_features, default=0) + 1
        rows = np.full((TRIAL_ROWS, feature_count), np.nan)
        for feature, thresholds in self.thresholds.items():
            below = np.nextafter(thresholds, -np.inf)
            above = np.nextafter(thresholds, np.inf)
            values = [np.nan, *below, *thresholds, *above]
            rows[:, feature] = generator.choice(values, len(rows))
        for feature in self.is_known_category:
            values = [np.nan, *range(MOST_CATEGORIES)]
            rows[:, feature] = generator.choice(values, len(rows))
        return rows


def list_thresholds(branches: Array) -> dict[int, Array]:
    """Return the distinct thresholds of each numerical feature, in ascending order."""
    numerical = branches[branches["is_categorical"] == 0]
    return {
        feature: np.unique(
            numerical["num_threshold"][numerical["feature_idx"] == feature]
        )
        for feature in np.unique(numerical["feature_idx"])
    }


def list_known_categories(branches: Array, boosted: BoostedModel) -> dict[int, Array]:
    """Return whether each category was seen in training, for each categorical feature.

    Each array has a boolean for each possible number of a category.
    """
    category_bits, line_of_feature = boosted._bin_mapper.make_known_categories_bitsets()
    categorical = branches[branches["is_categorical"] != 0]
    return {
        feature: unpack_bits(category_bits[line_of_feature[feature]])
        for feature in np.unique(categorical["feature_idx"])
    }


def _find_leaves(group: TreeGroup, codes: dict[int, Array], row_count: int) -> Array:
    """Find the number of the leaf that each row of data reaches, for each tree of a group.

    Each row has one word per tree: an integer with one bit for each leaf. At first, the
    bits of all leaves are set. Then each feature clears the bits of the leaves that the row
    cannot reach, until one bit is left.

    `codes` maps each feature to an array with one code per row of data. The code is the
    position of the line to read in the table `group.allowed_leaves[feature]`. `row_count`
    is the number of rows of data, which `codes` does not show if no tree has a branch.

    Returns an array with a line for each tree and a column for each row of data.
    """
    shape = (row_count, len(group.all_leaves))
    possible_leaves = np.broadcast_to(group.all_leaves, shape).copy()
    for feature, allowed_by_code in group.allowed_leaves.items():
        # For each row of data, take the line of the table that belongs to the row's code.
        # If a code is beyond the end of the table, such as the number of an impossible
        # category, "clip" takes the last line instead: the line of missing values.
        allowed_leaves = allowed_by_code.take(codes[feature], axis=0, mode="clip")
        possible_leaves &= allowed_leaves

    # Each element of `possible_leaves` is the word of one row and one tree. Only the bit of
    # the leaf that the row reaches is still set. Subtracting 1 sets exactly the bits below
    # it, and their count is the number of the leaf. For example, 0100 - 1 = 0011 has two
    # set bits, and the leaf is number 2.
    # This 1 has the type of the words, so the difference has the same type.
    one = possible_leaves.dtype.type(1)
    bits_below = possible_leaves - one
    leaves: Array = np.bitwise_count(bits_below).T
    return leaves


class Branch(NamedTuple):
    """A node of a tree that asks a question, and the leaves on its left and its right.

    The leaves of a side are stored as a word: an integer in which their bits are set.
    """

    node: Any
    left_leaves: np.uint64
    right_leaves: np.uint64


class TreeLayout(NamedTuple):
    """The branches of a tree, and the values of its leaves from left to right.

    The position of a value in `leaf_values` is the number of the leaf. It is also the
    number of the leaf's bit in a word.
    """

    branches: list[Branch]
    leaf_values: list[float]


def read_layout(nodes: Array) -> TreeLayout:
    """Return the branches and the leaves of a tree, whose root is the first node.

    Leaves are numbered from left to right. So the leaves below a branch have consecutive
    numbers: first the leaves on its left, then the leaves on its right. Each of these two
    ranges is stored as a word: an integer in which the bits of the leaves are set. The
    order of the branches has no meaning.
    """
    branches: list[Branch] = []
    leaf_values: list[float] = []

    def visit_subtree(position: int) -> None:
        """Append the leaves of a subtree to `leaf_values`, and its branches to `branches`.

        The root of the subtree is the node at `position`. The number of a leaf is the count
        of the leaves that were appended before it.
        """
        node = nodes[position]
        if node["is_leaf"]:
            leaf_values.append(node["value"])
            return
        first_left_leaf = len(leaf_values)
        visit_subtree(node["left"])
        first_right_leaf = len(leaf_values)
        visit_subtree(node["right"])
        end = len(leaf_values)
        branches.append(
            Branch(
                node,
                left_leaves=set_bits(first_left_leaf, first_right_leaf),
                right_leaves=set_bits(first_right_leaf, end),
            )
        )

    visit_subtree(0)
    return TreeLayout(branches, leaf_values)


def unpack_bits(integers: Array) -> npt.NDArray[np.bool_]:
    """Return whether each bit of some 32-bit integers is set, beginning with the lowest.

    For example, the integer 6 (binary 110) gives false, true, true, and 29 times false.
    """
    octets = integers.astype("<u4").view(np.uint8)
    return np.unpackbits(octets, bitorder="little").astype(bool)


def set_bits(start: int, end: int) -> np.uint64:
    """Return an integer in which the bits `start` to `end - 1` are set.

    Bit 0 is the lowest. For example, `set_bits(1, 3)` is binary 110: the bits 1 and 2 are
    set.
    """
    return np.uint64(2**end - 2**start)
