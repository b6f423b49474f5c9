"""Metrics, tables and figures: pure functions of the score table."""
