"""Draw pipelines as Mermaid in Markdown, which code hosts and notebooks show."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from .steps import Parameter, Source, Step


def draw(steps: Iterable[Step]) -> str:
    """Return a diagram of the steps of a pipeline, as a block of Markdown.

    Steps are boxes, and parallel steps have a double border. Data and the outputs of steps
    have round corners. A line of the diagram is an arrow from one node to another, such as
    `n1("raw_data") --> n2["prep"]`.
    """
    steps = list(steps)
    nodes = _Nodes(steps)
    lines: list[str] = []
    for step in steps:
        step_node = nodes.format_step(step.name)
        nodes_before = [nodes.format_step(name) for name in step.run_after]
        nodes_before += [nodes.format_source(source) for source in step.inputs.values()]
        nodes_after = [
            nodes.format_source((step.name, output)) for output in step.outputs
        ]

        arrows = [f"{node} --> {step_node}" for node in nodes_before]
        arrows += [f"{step_node} --> {node}" for node in nodes_after]
        if arrows:
            lines += arrows
        else:
            # A step without any arrow is drawn as a single node.
            lines.append(step_node)

    # If a step reads the same source through two inputs, both give the same arrow.
    unique_lines = dict.fromkeys(lines)
    indented_lines = [f"    {line}" for line in unique_lines]
    return "\n".join(["```mermaid", "flowchart LR", *indented_lines, "```"])


class _Nodes:
    """Formats the nodes of a diagram in Mermaid's syntax, and numbers them."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._parallel_steps = {step.name for step in steps if step.is_parallel}
        # The number of each node. The keys are ("prep", "") for a step, ("prep", "prepared")
        # for an output of a step, and ("", "raw_data") for data.
        self._numbers: dict[tuple[str, str], int] = {}

    def format_step(self, name: str) -> str:
        """Return the node of a step, such as `n1["prep"]`, which Mermaid draws as a box."""
        number = self._number_node(name, "")
        if name in self._parallel_steps:
            return f"{number}[[{_quote(name)}]]"
        return f"{number}[{_quote(name)}]"

    def format_source(self, source: Source) -> str:
        """Return the node of data or of a step's output, such as `n2("raw_data")`."""
        if isinstance(source, Parameter):
            return f"{self._number_node('', source.name)}({_quote(source.name)})"
        step, output = source
        return f"{self._number_node(step, output)}({_quote(output)})"

    def _number_node(self, step: str, output: str) -> str:
        """Return the id of a node, such as `n1`. A new node gets the next number."""
        number = self._numbers.setdefault((step, output), len(self._numbers) + 1)
        return f"n{number}"


def _quote(name: str) -> str:
    """Return a name in quotes, with special characters as Mermaid's character codes.

    Mermaid would read some of these characters as its own syntax: `a"b` becomes `"a#34;b"`.
    """
    escaped = re.sub(r"[^\w .-]", lambda match: f"#{ord(match[0])};", name)
    return f'"{escaped}"'
