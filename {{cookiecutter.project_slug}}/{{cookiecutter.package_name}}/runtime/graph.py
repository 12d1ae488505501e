"""Draw the graph of a pipeline from its steps, as an SVG that needs no other file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from graphlib import TopologicalSorter
from html import escape
from itertools import pairwise
from pathlib import Path

from .local_run import LocalStep, Parameter

# In pixels: between columns, of a row, of a box, around the picture.
GAP, ROW, BOX, MARGIN = 34, 46, 30, 8
HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{0:g}" height="{1:g}" \
viewBox="0 0 {0:g} {1:g}" style="max-width: 100%; height: auto" \
font-family="sans-serif" font-size="13" text-anchor="middle" fill="#222">
<marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" \
markerHeight="8" orient="auto"><path d="M0 0 8 4 0 8z" fill="#777"/></marker>
<rect width="100%" height="100%" fill="white"/>
"""


@dataclass(eq=False)
class _Node:
    """A step, an output, a parameter or, without a text, a bend of an edge."""

    text: str = ""
    step: LocalStep | None = None
    column: int = 0
    left: float = 0
    right: float = 0
    y: float = 0

    def width(self) -> float:
        """About what the text takes, in any font."""
        return (8 * len(self.text) + 24) if self.step else 7 * len(self.text) + 8


def draw(steps: Iterable[LocalStep]) -> str:
    """The SVG: steps are boxes (those that run in parallel double), data is plain."""
    nodes, edges = _graph(steps)
    columns = _columns(nodes, edges)
    x: float = MARGIN
    for column in columns:
        width = max(node.width() for node in column)
        for row, node in enumerate(column):
            room = width - node.width() if node.text else 0
            node.left, node.right = x + room / 2, x + width - room / 2
            node.y = MARGIN + ROW * (row + 0.5)
        x += width + GAP
    height = 2 * MARGIN + ROW * max(map(len, columns))
    parts = [HEAD.format(x - GAP + MARGIN, height), *map(_line, edges)]
    return "".join([*parts, *map(_box, nodes), "</svg>\n"])


def _graph(steps: Iterable[LocalStep]) -> tuple[list[_Node], list[list[_Node]]]:
    """The nodes, and the edges between two of them."""
    nodes: dict[tuple[str, str], _Node] = {}
    edges: dict[tuple[tuple[str, str], tuple[str, str]], None] = {}
    for step in steps:
        here = (step.name, "")
        for source in step.inputs.values():
            if isinstance(source, Parameter):
                nodes.setdefault(("", source.name), _Node(source.name))
                source = ("", source.name)
            edges[source, here] = None
        edges.update({((other, ""), here): None for other in step.run_after})
        nodes[here] = _Node(step.name, step)
        for port in step.outputs:
            nodes[step.name, port] = _Node(port)
            edges[here, (step.name, port)] = None
    return list(nodes.values()), [[nodes[a], nodes[b]] for a, b in edges]


def _columns(nodes: list[_Node], edges: list[list[_Node]]) -> list[list[_Node]]:
    """The nodes by columns from left to right; edges get a bend in those they pass."""
    sources: dict[_Node, list[_Node]] = {node: [] for node in nodes}
    for start, end in edges:
        sources[end].append(start)
    for node in TopologicalSorter(sources).static_order():
        node.column = 1 + max((other.column for other in sources[node]), default=-1)
    before: dict[_Node, list[_Node]] = {node: [] for node in nodes}
    for edge in edges:
        start, end = edge
        edge[1:1] = [_Node(column=i) for i in range(start.column + 1, end.column)]
        for left, right in pairwise(edge):
            before.setdefault(right, []).append(left)
    columns = [
        [node for node in before if node.column == i]
        for i in range(1 + max(node.column for node in nodes))
    ]
    for last, column in pairwise(columns):
        # As high as those that lead to it: so few edges cross.
        column.sort(key=lambda n: sum(map(last.index, before[n])) / len(before[n]))
    return columns


def _line(edge: list[_Node]) -> str:
    """An edge: curved between columns, level where it passes one."""
    line = f"M{edge[0].right:g} {edge[0].y:g}"
    for start, end in pairwise(edge):
        middle = (start.right + end.left) / 2
        line += f"C{middle:g} {start.y:g} {middle:g} {end.y:g} {end.left:g} {end.y:g}"
        line += "" if end.text else f"H{end.right:g}"
    return f'<path d="{line}" fill="none" stroke="#777" marker-end="url(#arrow)"/>\n'


def _box(node: _Node) -> str:
    box = ""
    if node.step:
        for shift in (4, 0) if node.step.is_parallel else (0,):
            box += (
                f'<rect x="{node.left + shift:g}" y="{node.y - BOX / 2 + shift:g}"'
                f' width="{node.right - node.left:g}" height="{BOX}" rx="5"'
                ' fill="#e9f1fa" stroke="#3b78b5"/>\n'
            )
    x, weight = (node.left + node.right) / 2, "bold" if node.step else "normal"
    place = f'x="{x:g}" y="{node.y + 4.5:g}" font-weight="{weight}"'
    return f"{box}<text {place}>{escape(node.text)}</text>\n"


def write(steps: Iterable[LocalStep], path: Path) -> Path:
    """Draw into a file, whose path is returned."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(draw(steps), encoding="utf-8")
    return path
