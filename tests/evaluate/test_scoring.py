"""Scores of hand-made outputs; RULER's are those that NVIDIA's own code has given (RULER scripts/eval, c3f5e3b)."""

import pytest

from evaluate.scoring import contained, in_order

BABBLE = " ".join(str(number) for number in range(100))
RECORDED = [  # output, gold strings, percent by postprocess_pred and string_match_all
    (" 4729184.", ["4729184"], 100.0),
    ("", ["4729184"], 0.0),
    ("\x00\t \n", ["4729184"], 0.0),
    (" 4729184, 1111111 and 2222222", ["4729184", "1111111", "3333333", "4444444"], 50.0),
    (" abcde FGHIJ\nVAR", ["ABCDE", "FGHIJ", "KLMNO"], 66.67),
    ("1. start 2. party", ["art", "start"], 100.0),
    ("47\x0029184", ["4729184"], 0.0),
    (BABBLE, ["41", "50"], 100.0),
]


@pytest.mark.parametrize(("output", "gold", "percent"), RECORDED)
def test_contained_is_what_nvidias_scorer_gives(output: str, gold: list[str], percent: float) -> None:
    assert round(100 * contained(output, gold), 2) == percent


@pytest.mark.parametrize(
    ("output", "gold", "share"),
    [
        (" a b c", "abc", 1.0),
        (" A, b; c.\nList: x", "abc", 1.0),
        (" b a c", "abc", 1 / 3),
        ("x a b c", "abc", 0.0),  # all shifted by one
        (" a b", "abc", 2 / 3),
        ("", "abc", 0.0),
        (BABBLE, ["41"], 0.0),
    ],
)
def test_in_order_gives_nothing_for_babble(output: str, gold: list[str], share: float) -> None:
    assert in_order(output, list(gold)) == pytest.approx(share)
