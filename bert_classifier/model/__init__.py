"""Features -> EstimatorSpec: the output layer on the encoder, its losses and metrics."""
