"""Read and write the directories in which Hugging Face's transformers keeps a model."""
