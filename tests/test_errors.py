"""Bad input, and what becomes of the errors of google's modules."""

from __future__ import annotations

import pytest

from bert_classifier.errors import BadInput, bad_input


@pytest.mark.parametrize(
    "error", [ValueError("vocab.txt: is empty"), BadInput("vocab.txt: is empty")]
)
def test_a_value_error_becomes_bad_input_with_the_same_text(error):
    with pytest.raises(BadInput) as caught, bad_input():
        raise error
    assert str(caught.value) == "vocab.txt: is empty"


def test_other_errors_stay_what_they_are():
    with pytest.raises(KeyError), bad_input():
        raise KeyError("a fault of the program")
