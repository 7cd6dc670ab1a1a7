from __future__ import annotations

import json

import pytest

from bert_classifier.training.history import EvalHistory, Watched

LOSS = Watched("eval_loss", higher_is_better=False)
F1 = Watched("eval_f1", higher_is_better=True)
NAN = float("nan")


def history_of(tmp_path, watched, values):
    history = EvalHistory(str(tmp_path / "eval_history.jsonl"), watched)
    is_best = [
        history.add(10 * number, {watched.metric: value, "global_step": 10 * number})
        for number, value in enumerate(values, start=1)
    ]
    return history, is_best


@pytest.mark.parametrize(
    ("watched", "values", "is_best", "best_step", "waited"),
    [
        (LOSS, [1.0, 2.0, 3.0], [True, False, False], 10, 20),
        (LOSS, [3.0, 1.0, 2.0], [True, True, False], 20, 10),
        (LOSS, [3.0, 2.0, 1.0], [True, True, True], 30, 0),
        (F1, [0.1, 0.3, 0.2], [True, True, False], 20, 10),
        (F1, [0.5, 0.5, 0.5], [True, False, False], 10, 20),
        (LOSS, [NAN, 2.0, 3.0], [False, True, False], 20, 10),
        (LOSS, [2.0, NAN, 1.0], [True, False, True], 30, 0),
        (LOSS, [NAN, NAN, NAN], [False, False, False], None, 20),
        (F1, [0.2, float("inf")], [True, False], 10, 10),
    ],
)
def test_best_is_the_first_of_the_best_finite_values(
    tmp_path, watched, values, is_best, best_step, waited
):
    history, said = history_of(tmp_path, watched, values)
    assert said == is_best
    assert (history.best() and history.best().step) == best_step
    assert history.steps_without_improvement() == waited


def test_a_second_process_reads_what_the_first_one_wrote(tmp_path):
    history, _ = history_of(tmp_path, LOSS, [3.0, NAN, 1.0, 2.0])
    again = EvalHistory(str(tmp_path / "eval_history.jsonl"), LOSS)
    assert again.best() == history.best()
    assert [e.step for e in again.evaluations] == [10, 20, 30, 40]
    assert again.evaluations_without_improvement() == 1


def test_every_line_is_strict_json(tmp_path):
    history_of(tmp_path, LOSS, [3.0, NAN])

    def refuse(constant):
        raise AssertionError("not JSON: " + constant)

    lines = (tmp_path / "eval_history.jsonl").read_text().splitlines()
    records = [json.loads(line, parse_constant=refuse) for line in lines]
    assert records == [
        {"step": 10, "metrics": {"eval_loss": 3.0}, "is_best": True},
        {"step": 20, "metrics": {"eval_loss": "nan"}, "is_best": False},
    ]


def test_a_repeated_step_replaces_it_and_what_came_later(tmp_path):
    history, _ = history_of(tmp_path, LOSS, [3.0, 1.0, 2.0])
    assert not history.add(20, {"eval_loss": 5.0})
    assert [(e.step, history.value(e)) for e in history.evaluations] == [(10, 3.0), (20, 5.0)]
    assert history.best().step == 10


def test_no_evaluation_is_no_wait_and_no_best(tmp_path):
    history = EvalHistory(str(tmp_path / "eval_history.jsonl"), LOSS)
    assert history.best() is None
    assert history.steps_without_improvement() == 0
