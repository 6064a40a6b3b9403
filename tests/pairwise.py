"""Which cases of a product of parameters are enough to see every two values together."""

import itertools
from collections.abc import Sequence

Case = frozenset[tuple[str, int]]  # each parameter, with the identity of its value


def pairwise(cases: Sequence[Case]) -> list[int]:
    """Numbers of cases, in order, that between them hold every pair of values that any case holds."""
    pairs = [{Case(pair) for pair in itertools.combinations(case, 2)} or {case} for case in cases]
    open_ = set[Case]().union(*pairs)
    chosen = []
    while open_:
        best = max(range(len(cases)), key=lambda number: len(pairs[number] & open_))
        open_ -= pairs[best]
        chosen.append(best)
    return sorted(chosen)
