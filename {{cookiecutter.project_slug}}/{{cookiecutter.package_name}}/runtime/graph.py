"""Pictures of pipelines: Mermaid in Markdown, which code hosts and notebooks draw."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .steps import Parameter, Step


def draw(steps: Iterable[Step]) -> str:
    """Steps are boxes (double where they run in parallel), what they read is round."""
    steps, numbers = list(steps), dict[tuple[str, str], int]()
    boxes = {step.name: "[[{}]]" if step.is_parallel else "[{}]" for step in steps}

    def node(step: str, port: str = "") -> str:
        """A step, what it writes to a port, or a pipeline parameter (of no step)."""
        number = numbers.setdefault((step, port), len(numbers) + 1)
        # Of a name, what Mermaid could take for its own syntax is given by its code.
        name = re.sub(r"[^\w .-]", lambda found: f"#{ord(found[0])};", port or step)
        shape = "({})" if port else boxes[step]
        return f"n{number}" + shape.format(f'"{name}"')

    lines: list[str] = []
    for step in steps:
        before = [node(name) for name in step.run_after]
        for source in step.inputs.values():
            if isinstance(source, Parameter):
                before.append(node("", source.name))
            else:
                before.append(node(*source))
        here = node(step.name)
        edges = [f"{other} --> {here}" for other in before]
        edges += [f"{here} --> {node(step.name, port)}" for port in step.outputs]
        lines += edges or [here]
    return "\n    ".join(["```mermaid\nflowchart LR", *dict.fromkeys(lines)]) + "\n```"
