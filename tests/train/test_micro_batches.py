"""Labels of rows: the next token, and of answers alone where that is asked."""

import numpy as np

from model.loss import IGNORED
from train.micro_batches import shifted_labels

X = IGNORED
EOS, ANSWER = 0, 9


def test_labels_are_the_next_tokens_of_rows_that_count() -> None:
    labels = shifted_labels(np.array([[1, 2, 3], [4, 5, 6]], np.uint32), np.array([True, False]))
    assert labels.tolist() == [[2, 3, X], [X, X, X]]


def test_only_answers_count_up_to_the_end_of_their_document() -> None:
    rows = np.array(
        [
            [1, 2, ANSWER, 3, 4, EOS, 5, ANSWER, 6, EOS, EOS, EOS],
            [1, 2, 3, 4, EOS, 5, 6, 7, 8, 1, 2, 3],
            [ANSWER, 3, EOS, ANSWER, EOS, 1, 2, 3, 4, 5, ANSWER, 7],
        ],
        np.uint32,
    )
    labels = shifted_labels(rows, np.array([True, True, True]), ANSWER, EOS)
    assert labels.tolist() == [
        [X, X, 3, 4, EOS, X, X, 6, EOS, X, X, X],
        [X] * 12,
        [3, EOS, X, EOS, X, X, X, X, X, X, 7, X],
    ]
    assert (shifted_labels(rows, np.array([False, True, True]), ANSWER, EOS)[0] == X).all()
