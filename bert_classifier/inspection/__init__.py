"""Checks before a run, and the judgement after it."""
