"""What the server accepts at most."""

from __future__ import annotations

from typing import NamedTuple

from bert_classifier.errors import BadInput


class Limits(NamedTuple):
    """What a client may send and how long it may take, and how texts are put into batches.

    Attributes:
        largest_batch: texts, or rows of tokens, that the model reads at once.
        longest_wait_ms: how long a text may wait for others, in milliseconds, when a core is free.
        queue_size: texts that may wait; a request for which there is no place is answered 429.
        most_texts: texts in a request.
        longest_text: characters in a text.
        largest_body: bytes in the body of a request.
        largest_head: bytes in the first line and the headers of a request.
        most_connections: connections at the same time.
        sender_timeout: seconds in which a client must have sent its request.
        answer_timeout: seconds in which it must have its answer, waiting included.
    """

    largest_batch: int = 32
    longest_wait_ms: float = 0.0
    queue_size: int = 2048
    most_texts: int = 1024
    longest_text: int = 100_000
    largest_body: int = 4 << 20
    largest_head: int = 16 << 10
    most_connections: int = 1000
    sender_timeout: float = 20.0
    answer_timeout: float = 60.0

    def check(self) -> None:
        """Check that the limits can be kept.

        Raises:
            BadInput: one is too small for any request, or does not fit another.
        """
        for name, value in self._asdict().items():
            lowest = 0 if name == "longest_wait_ms" else 1e-3 if "timeout" in name else 1
            if not lowest <= value <= 1e9:
                raise BadInput("--%s=%s: give a number from %g to 1e9" % (name, value, lowest))
        if self.most_texts > self.queue_size:
            raise BadInput(
                "--most_texts=%d: is more than --queue_size=%d, so that a request of so many texts "
                "would never be answered; give less" % (self.most_texts, self.queue_size)
            )
