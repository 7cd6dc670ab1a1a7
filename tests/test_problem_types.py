"""The seam of problem types: names, labels of files, and a new one that is a class of its own."""

from __future__ import annotations

import pytest

from bert_classifier import problem_types
from bert_classifier.config import OwnFiles
from bert_classifier.data.features import Converter
from bert_classifier.data.processors import get_processor
from bert_classifier.data.tasks import file_task


def test_names():
    assert problem_types.PROBLEM_TYPES == ("classification", "regression", "multi_label")
    assert [problem_types.get(n).name for n in problem_types.PROBLEM_TYPES] == list(
        problem_types.PROBLEM_TYPES
    )
    with pytest.raises(ValueError, match="must be one of .*'regression'.* not 'ranking'"):
        problem_types.get("ranking")


@pytest.mark.parametrize(
    "name, prediction, text",
    [
        ("classification", 1, "b"),
        ("multi_label", [1, 0, 1], "a;c"),
        ("multi_label", [0, 0, 0], ""),
        ("regression", 2.5, "2.500"),
    ],
)
def test_a_prediction_is_named_as_in_the_data_files(name, prediction, text):
    assert problem_types.get(name).name_prediction(prediction, ["a", "b", "c"], ";") == text


def test_numbers_have_no_probabilities():
    regression = problem_types.get("regression")
    with pytest.raises(NotImplementedError, match="regression has no probabilities"):
        regression.divide_logits(None, 2.0)


def test_a_new_problem_type_is_one_class(tmp_path, monkeypatch):
    class Grades(problem_types.Regression):
        """Grades of words, which are numbers to the model."""

        name = "grades"

        def read_label(self, cell, elements, separator):
            return float(["bad", "fair", "good"].index(cell))

    monkeypatch.setitem(problem_types._ALL, "grades", Grades())
    (tmp_path / "train.tsv").write_text("text\tlabel\nx\tgood\ny\tbad\n")
    processor = get_processor("file", None, file_task(OwnFiles(problem_type="grades")))
    examples = processor.get_train_examples(str(tmp_path))
    converter = Converter(processor.get_labels(), 8, None, "grades")
    assert [converter.label_id(example.label) for example in examples] == [2.0, 0.0]
