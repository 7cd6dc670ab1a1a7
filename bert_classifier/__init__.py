"""Fine-tune BERT for text classification with a plain tf.estimator.Estimator.

    from bert_classifier import Predictor

loads an exported model. To train one, run `run_classifier_gpu.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bert_classifier.serving.predictor import Predictor

__all__ = ["Predictor", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import `Predictor` when it is first asked for (PEP 562)."""
    if name != "Predictor":
        raise AttributeError("module %r has no attribute %r" % (__name__, name))
    from bert_classifier.serving.predictor import Predictor  # noqa: PLC0415

    return Predictor
