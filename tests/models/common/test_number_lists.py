"""Options of one number or several: spellings, bounds, messages."""

import pytest

from models.common.number_lists import NumbersOption, per_part
from models.common.options import ModelOptionError

RATIOS = NumbersOption(
    name="ratios", type=int, default=(8, 4), low=1, high=16, part="stage", length=2, description="Ratios."
)
SIDES = NumbersOption(
    name="sides", type=int, default=3, low=1, high=7, odd=True, part="layer", longest=3, description="Sides."
)


@pytest.mark.parametrize(
    ("option", "given", "expected"),
    [
        (RATIOS, 4, 4),
        (RATIOS, [8, 4], (8, 4)),
        (RATIOS, (1, 16), (1, 16)),
        (RATIOS, "8-16", (8, 16)),
        (SIDES, "5", (5,)),
        (SIDES, [1, 3, 7], (1, 3, 7)),
        (SIDES, "1-3", (1, 3)),
    ],
)
def test_spellings(option: NumbersOption, given: object, expected: object) -> None:
    assert option.problem(given) is None
    assert option.normalise(given) == expected


@pytest.mark.parametrize(
    ("option", "given"),
    [
        (RATIOS, [8]),
        (RATIOS, "8-4-4"),
        (RATIOS, "8-17"),
        (RATIOS, [0, 4]),
        (RATIOS, [True, 4]),
        (RATIOS, [2.5, 4]),
        (RATIOS, "8,4"),
        (RATIOS, "8--4"),
        (RATIOS, "-4"),
        (RATIOS, []),
        (RATIOS, ""),
        (RATIOS, True),
        (RATIOS, {8: 4}),
        (SIDES, "1-3-5-7"),
        (SIDES, [2, 3]),
        (SIDES, "\u0661"),
    ],
)
def test_wrong_values(option: NumbersOption, given: object) -> None:
    with pytest.raises(ModelOptionError) as caught:
        option.normalise(given)
    (problem,) = caught.value.problems
    assert option.rule in problem.rule and problem.remedy.startswith("Use ")
    assert option.problem(option.nearest(given)) is None


def test_rules() -> None:
    assert RATIOS.rule == "an int from 1 to 16, or 2 of them, one per stage, as a list or such as '8-4'"
    assert SIDES.rule == "an odd int from 1 to 7, or up to 3 of them, one per layer, as a list or such as '3-3'"


def test_one_number_stands_for_all_parts() -> None:
    assert per_part(4, 3) == [4, 4, 4]
    assert per_part((2.5, 4), 2) == [2.5, 4]
