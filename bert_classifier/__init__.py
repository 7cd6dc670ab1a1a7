"""Fine-tune BERT for text classification with a plain tf.estimator.Estimator."""
