"""Tables -> tasks -> features -> records -> batches."""
