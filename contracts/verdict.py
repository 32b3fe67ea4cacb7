"""The walk that settles a round: the one place that decides which draft nodes are accepted."""

from __future__ import annotations

from collections.abc import Sequence

from contracts.types import ROOT

__all__ = ["walk"]


def walk(choices: Sequence[int], tokens: Sequence[int], parents: Sequence[int]) -> list[int]:
    """Indices of the accepted nodes, from the root down.

    `choices[0]` is the target's own choice below the root and `choices[1 + i]` below node i; `tokens` and `parents` are
    those of the nodes, every parent before its children. From the root, follow the child that equals the target's
    choice; the choice where no child does is the target's own next token, `choices[1 + accepted[-1]]`.

    Why this is exact: the target's choice at a position is a function of the tokens before it, and along the walk those
    are the tokens the target itself chose. So the walk spells what plain decoding would have, whatever was proposed.

    >>> walk([7, 9, 4, 5], tokens=[8, 7, 4], parents=[ROOT, ROOT, 1])
    [1, 2]
    """
    child_of: dict[tuple[int, int], int] = {}
    for index, (token, parent) in enumerate(zip(tokens, parents, strict=True)):
        child_of.setdefault((parent, token), index)
    accepted: list[int] = []
    at = ROOT
    while (found := child_of.get((at, choices[at + 1]))) is not None:
        accepted.append(found)
        at = found
    return accepted
