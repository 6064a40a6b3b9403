"""Every two values of different parameters meet, in far fewer cases than there are."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tests.pairwise import pairwise


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_every_pair_of_values_is_held_by_a_case(sizes: list[int]):
    cases = [frozenset(zip("abcd", case, strict=False)) for case in itertools.product(*map(range, sizes))]
    kept = [cases[number] for number in pairwise(cases)]
    for case in cases:
        for pair in itertools.combinations(case, min(2, len(sizes))):
            assert any(set(pair) <= each for each in kept)


def test_few_cases_are_kept_of_many():
    cases = [frozenset(zip("abcde", case, strict=True)) for case in itertools.product(*map(range, (5, 3, 2, 2, 2)))]
    assert len(pairwise(cases)) <= 18 < len(cases) == 120


def test_cases_that_are_none_of_a_product_are_all_kept():
    assert pairwise([frozenset({("a", number)}) for number in range(7)]) == [*range(7)]
    assert pairwise([]) == []
