"""Temperature scaling: against numbers that are known, and against other ways to the same end."""

from __future__ import annotations

import numpy as np
import pytest

from bert_classifier.export.calibration import (
    apply_temperature,
    calibrate,
    expected_calibration_error,
)


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def made_up(problem_type, temperature, count=20000):
    """Probabilities of a model that is too sure by a known factor, and labels that are true."""
    random = np.random.RandomState(0)
    logits = random.normal(scale=2.0, size=(count, 3))
    if problem_type == "multi_label":
        labels = random.uniform(size=logits.shape) < 1 / (1 + np.exp(-logits))
        return 1 / (1 + np.exp(-logits * temperature)), labels.astype(int)
    cumulated = softmax(logits).cumsum(axis=1)
    labels = (random.uniform(size=(count, 1)) > cumulated).sum(axis=1)
    return softmax(logits * temperature), np.minimum(labels, 2)


@pytest.mark.parametrize("problem_type", ["classification", "multi_label"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_it_finds_the_temperature_that_a_model_was_made_with(problem_type, temperature):
    probabilities, labels = made_up(problem_type, temperature)
    found = calibrate(probabilities, labels, problem_type)
    assert found.temperature == pytest.approx(temperature, rel=0.05)
    assert found.error_after < 0.01
    assert found.error_before == pytest.approx(
        expected_calibration_error(probabilities, labels, problem_type)
    )
    if temperature != 1:
        assert found.error_before > 5 * found.error_after


@pytest.mark.parametrize("problem_type", ["classification", "multi_label"])
def test_no_other_temperature_makes_the_labels_more_likely(problem_type):
    probabilities, labels = made_up(problem_type, 2.0, count=500)

    def likelihood(temperature):
        scaled = apply_temperature(probabilities, temperature, problem_type)
        if problem_type == "classification":
            return np.log(scaled[np.arange(len(labels)), labels]).sum()
        return np.log(np.maximum(np.where(labels, scaled, 1 - scaled), 1e-30)).sum()

    best = calibrate(probabilities, labels, problem_type).temperature
    assert likelihood(best) >= max(map(likelihood, np.geomspace(0.1, 10, 400))) - 1e-4


@pytest.mark.parametrize("temperature", [0.3, 2.5])
def test_it_divides_the_logits(temperature):
    logits = np.random.RandomState(1).normal(scale=3, size=(50, 4))
    np.testing.assert_allclose(
        apply_temperature(softmax(logits), temperature, "classification"),
        softmax(logits / temperature),
        atol=1e-9,
    )
    np.testing.assert_allclose(
        apply_temperature(1 / (1 + np.exp(-logits)), temperature, "multi_label"),
        1 / (1 + np.exp(-logits / temperature)),
        atol=1e-9,
    )


@pytest.mark.parametrize("problem_type", ["classification", "multi_label"])
def test_certainty_stays_finite(problem_type):
    certain = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    scaled = apply_temperature(certain, 0.01, problem_type)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, certain)
    labels = np.array([0, 1]) if problem_type == "classification" else certain.astype(int)
    assert np.isfinite(calibrate(certain, labels, problem_type)).all()
    assert apply_temperature(certain, 1, problem_type) is certain


def test_the_error_is_that_of_the_definition():
    random = np.random.RandomState(2)
    probabilities = softmax(random.normal(size=(400, 3)))
    labels = random.randint(3, size=400)
    confidence = probabilities.max(axis=1)
    is_right = probabilities.argmax(axis=1) == labels
    expected = 0.0
    for bin_number in range(15):
        of_bin = (confidence >= bin_number / 15) & (confidence < (bin_number + 1) / 15)
        if of_bin.any():
            gap = abs(confidence[of_bin].mean() - is_right[of_bin].mean())
            expected += of_bin.mean() * gap
    found = expected_calibration_error(probabilities, labels, "classification")
    assert found == pytest.approx(expected)
