"""Answers of an exported model."""
