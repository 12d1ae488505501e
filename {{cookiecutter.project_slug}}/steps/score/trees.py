"""Gradient-boosted trees, a few thousand rows at a time: the same sums, sooner.

scikit-learn walks each row down each tree, and a processor cannot guess the way. Here a
tree's leaves are the bits of a word. What a row holds in one feature rules leaves out,
which a table tells at once; the bit that all its features leave is its leaf. Several
trees, whose words stand side by side, are looked up together.
(After QuickScorer: Lucchese et al., 2015.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier as Classifier
from sklearn.ensemble import HistGradientBoostingRegressor as Regressor
from sklearn.pipeline import Pipeline

ROWS = 4096  # at once: what is known of them stays in the processor's cache
WIDTH = 32  # bytes of the words that are looked up together
MOST = 2**26  # bytes of tables: beyond, looking up takes longer than walking

Array = npt.NDArray[Any]


class UnknownModel(Exception):
    """A model is not of the kind that is known here; the message says why."""


def quicken(model: Any) -> None:
    """Have a model that ends in such trees predict by tables, bit for bit the same.

    UnknownModel if that cannot be: then it predicts as before.
    """
    trees = model[-1] if isinstance(model, Pipeline) else model
    if not isinstance(trees, (Classifier, Regressor)):
        raise UnknownModel(f"{type(trees).__name__} is not one of the trees known here")
    walk = trees._predict_iterations
    try:
        tables = Tables(trees)
        # Its inner parts may be others in another scikit-learn: a trial tells.
        rows = tables.trial()
        sums = np.zeros((2, len(rows), trees.n_trees_per_iteration_))
        walk(rows, trees._predictors, sums[0], False, 1)
        tables.add(rows, trees._predictors, sums[1])
    except (AttributeError, IndexError, TypeError) as error:
        raise UnknownModel(f"this scikit-learn is not known here: {error}") from None
    if not np.array_equal(*sums):
        raise UnknownModel("its trees are not what is known here")
    trees._predict_iterations = tables.add


class Tables:
    """For each group of trees and each feature, the leaves that each value leaves."""

    def __init__(self, trees: Classifier | Regressor) -> None:
        flat = [tree for iteration in trees._predictors for tree in iteration]
        most = max(tree.get_n_leaf_nodes() for tree in flat)
        if most > 64:
            raise UnknownModel(f"a tree has {most} leaves, and the most are 64")
        self.word = np.dtype(np.uint32 if most <= 32 else np.uint64)
        known, place = trees._bin_mapper.make_known_categories_bitsets()
        nodes = np.concatenate([tree.nodes for tree in flat])
        nodes = nodes[nodes["is_leaf"] == 0]
        # Of each feature either the categories or the thresholds, between which all
        # values are alike. The last code is that of a missing value.
        self.categories, self.cuts = {}, {}
        for feature in np.unique(nodes["feature_idx"]):
            own = nodes[nodes["feature_idx"] == feature]
            if own["is_categorical"].any():
                self.categories[feature] = set_bits(known[place[feature]])
            else:
                self.cuts[feature] = np.unique(own["num_threshold"])
        size = WIDTH // self.word.itemsize
        self.groups, taken = [], 0
        for start in range(0, len(flat), size):
            self.groups.append(self.group(flat[start : start + size]))
            taken += sum(table.nbytes for table in self.groups[-1][1].values())
            if taken > MOST:
                raise UnknownModel("its trees are too many, or its features")
        self.outputs = trees.n_trees_per_iteration_

    def group(self, trees: list[Any]) -> tuple[Array, dict[int, Array], Array]:
        """All leaves of each tree, what each feature's codes leave, the leaves' values."""
        leaves = np.ones(len(trees), self.word)
        values = np.zeros((len(trees), 8 * self.word.itemsize))
        ruled_out: dict[int, Array] = {}
        for i, tree in enumerate(trees):
            order: list[float] = []
            for node, left, right in branches(tree.nodes, 0, order):
                feature = node["feature_idx"]
                is_left = self.goes_left(node, tree.raw_left_cat_bitsets)
                if feature not in ruled_out:
                    ruled_out[feature] = np.zeros((len(is_left), len(trees)), self.word)
                ruled_out[feature][:, i] |= np.where(is_left, right, left)
            leaves[i] = bits(0, len(order))
            values[i, : len(order)] = order
        return leaves, {f: leaves & ~table for f, table in ruled_out.items()}, values

    def goes_left(self, node: Any, left_sets: Array) -> Array:
        """Whether each code of the node's feature goes left, the missing value last."""
        feature, missing = node["feature_idx"], bool(node["missing_go_to_left"])
        if node["is_categorical"]:
            unknown = ~self.categories[feature]
            codes = set_bits(left_sets[node["bitset_idx"]]) | (unknown & missing)
        else:
            cuts = self.cuts[feature]
            cut = np.searchsorted(cuts, node["num_threshold"])
            codes = np.arange(len(cuts) + 1) <= cut
        return np.append(codes, missing)

    def codes(self, rows: Array) -> dict[int, Array]:
        """The code of each row's value in each feature that a tree asks for."""
        found = {}
        for feature, cuts in self.cuts.items():
            values = rows[:, feature]
            found[feature] = np.searchsorted(cuts, values)
            found[feature][np.isnan(values)] = len(cuts) + 1
        for feature, known in self.categories.items():
            values = rows[:, feature]
            found[feature] = np.where(values >= 0, values, len(known)).astype(np.intp)
        return found

    def add(self, rows: Array, _: Any, sums: Array, *more: Any) -> None:
        """Add to each row's sums its leaf of each tree, in the order of the trees.

        Called as scikit-learn's own method, whose further arguments are not needed.
        """
        for start in range(0, len(rows), ROWS):
            here = slice(start, start + ROWS)
            codes, total = self.codes(rows[here]), np.ascontiguousarray(sums[here].T)
            tree = 0
            for leaves, tables, values in self.groups:
                found = np.broadcast_to(leaves, (total.shape[1], len(leaves))).copy()
                for feature, table in tables.items():
                    found &= table.take(codes[feature], axis=0, mode="clip")
                places = np.bitwise_count(found - self.word.type(1))
                for value, place in zip(values, places.T):
                    total[tree % self.outputs] += value.take(place, mode="clip")
                    tree += 1
            sums[here] = total.T

    def trial(self) -> Array:
        """Rows with values at and beside the thresholds, categories and missing ones."""
        random = np.random.default_rng(0)
        features = max([*self.cuts, *self.categories], default=0) + 1
        rows = np.full((1000, features), np.nan)
        for feature, cuts in self.cuts.items():
            near = [np.nextafter(cuts, side) for side in (-np.inf, cuts, np.inf)]
            rows[:, feature] = random.choice([np.nan, *np.ravel(near)], len(rows))
        for feature in self.categories:
            rows[:, feature] = random.choice([np.nan, *range(255)], len(rows))
        return rows


def branches(
    nodes: Array, at: int, leaves: list[float]
) -> Iterator[tuple[Any, np.uint64, np.uint64]]:
    """The branches below a node, each with the bits of its leaves on either side.

    Adds the values of the leaves to `leaves`, from left to right.
    """
    node = nodes[at]
    if node["is_leaf"]:
        leaves.append(node["value"])
        return
    start = len(leaves)
    yield from branches(nodes, node["left"], leaves)
    middle = len(leaves)
    yield from branches(nodes, node["right"], leaves)
    yield node, bits(start, middle), bits(middle, len(leaves))


def set_bits(words: Array) -> npt.NDArray[np.bool_]:
    """Whether each bit of some words is set, from the lowest on."""
    octets = words.astype("<u4").view(np.uint8)
    return np.unpackbits(octets, bitorder="little").astype(bool)


def bits(start: int, end: int) -> np.uint64:
    """A word in which these bits are set."""
    return np.uint64(2**end - 2**start)
