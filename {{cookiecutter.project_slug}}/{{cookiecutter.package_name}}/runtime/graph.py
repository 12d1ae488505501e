"""Draw pipelines as Mermaid in Markdown, which code hosts and notebooks show."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from .steps import Parameter, Source, Step


def draw(steps: Iterable[Step]) -> str:
    """Return a diagram of the steps of a pipeline, as a block of Markdown.

    Steps are boxes, and parallel steps have a double border. Data and the outputs of steps
    have round corners.
    """
    steps = list(steps)
    nodes = _Nodes(steps)
    lines: list[str] = []
    for step in steps:
        box = nodes.name_step(step.name)
        before = [nodes.name_step(name) for name in step.run_after]
        before += [nodes.name_source(source) for source in step.inputs.values()]
        after = [nodes.name_source((step.name, port)) for port in step.outputs]

        edges = [f"{node} --> {box}" for node in before]
        edges += [f"{box} --> {node}" for node in after]
        lines += edges or [box]
    # If a step reads the same source by two inputs, both give the same edge.
    unique_lines = list(dict.fromkeys(lines))
    return "\n    ".join(["```mermaid\nflowchart LR", *unique_lines]) + "\n```"


class _Nodes:
    """Number the nodes of a diagram, and write each in Mermaid's syntax."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._parallel = {step.name for step in steps if step.is_parallel}
        self._numbers: dict[tuple[str, str], int] = {}

    def name_step(self, name: str) -> str:
        """Return the node of a step, such as `n1["prep"]`."""
        text = _quote(name)
        shape = f"[[{text}]]" if name in self._parallel else f"[{text}]"
        return self._number((name, "")) + shape

    def name_source(self, source: Source) -> str:
        """Return the node of data or of an output of a step, such as `n2("raw_data")`."""
        step_and_port = ("", source.name) if isinstance(source, Parameter) else source
        return self._number(step_and_port) + f"({_quote(step_and_port[1])})"

    def _number(self, key: tuple[str, str]) -> str:
        """Return the id of a node, such as `n1`. A new node gets the next number."""
        number = self._numbers.setdefault(key, len(self._numbers) + 1)
        return f"n{number}"


def _quote(name: str) -> str:
    """Quote a name, with special characters replaced by their codes.

    Mermaid would read some of these characters as its own syntax.
    """
    escaped = re.sub(r"[^\w .-]", lambda match: f"#{ord(match[0])};", name)
    return f'"{escaped}"'
