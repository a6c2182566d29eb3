"""The loops of a program that XLA compiled for a GPU, read from its list of thunks.

A thunk is what the runtime starts: mostly a kernel or a copy. XLA writes the list where it dumps a
program (`--xla_dump_hlo_as_text`), a line each, indented by four spaces a level:

    018: kWhile        [...]
condition:
        019: kCustomKernel [...]
      body:
        020: kCustomKernel [...]
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

THUNK = re.compile(r"^( *)\d+: k(\w+)")
HOLDERS = ("CommandBuffer", "Conditional", "Sequential", "DynamicSliceFusion")
"""Thunks that start nothing themselves, but what they hold."""


@dataclass
class Loop:
    """A loop of a compiled program."""

    depth: int
    """Loops around it."""
    in_graph: bool
    """Whether a CUDA graph holds it, so that the host starts none of its passes."""
    kernels: int = 0
    """Kernels and copies of a pass, without those of loops inside."""
    condition: int = 0
    """Those that decide whether another pass follows."""
    innermost: bool = True
    """Whether it holds no loop."""


def loops_of(lines: Iterable[str]) -> list[Loop]:
    """The loops of a program, in order, an outer one before those inside.

    Args:
        lines: of the dumped file `...thunk_sequence_after_thunk_passes.txt`.
    """
    found: list[Loop] = []
    around: list[tuple[int, str, Loop | None]] = []  # indentation, kind and loop, from the outside
    in_body: dict[int, bool] = {}  # by the indentation of the loop
    for line in lines:
        if line.strip() == "condition:":
            in_body[around[-1][0]] = False
        elif line.strip() == "body:":
            in_body[len(line) - len(line.lstrip()) - 2] = True
        if not (thunk := THUNK.match(line)):
            continue
        indent, kind = len(thunk[1]), thunk[2]
        while around and around[-1][0] >= indent:
            around.pop()
        outer = [(place, loop) for place, _, loop in around if loop is not None]
        if kind == "While":
            in_graph = any(name == "CommandBuffer" for _, name, _ in around)
            if outer:
                outer[-1][1].innermost = False
            found.append(Loop(len(outer), in_graph))
            around.append((indent, kind, found[-1]))
        elif kind in HOLDERS:
            around.append((indent, kind, None))
        elif outer:
            place, loop = outer[-1]
            if in_body[place]:
                loop.kernels += 1
            else:
                loop.condition += 1
    return found
