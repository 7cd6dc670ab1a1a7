"""What is known of a model that was trained before, by which a later call reads its data."""

from __future__ import annotations

from typing import Any, Mapping, NamedTuple, Sequence


class Trained(NamedTuple):
    """What is known of the model that a later call works with.

    Attributes:
        record: run.json of its run, see `runs.read_record`; None where there is none.
        labels: in the order of the outputs; None where nothing tells them.
        is_pair: whether it reads pairs of texts; None where nothing tells it.
    """

    record: Mapping[str, Any] | None = None
    labels: Sequence[str] | None = None
    is_pair: bool | None = None

    @property
    def thresholds(self) -> list[float] | None:
        """Of a multi_label model, in the order of the labels."""
        return self.record["identity"].get("thresholds") if self.record else None
