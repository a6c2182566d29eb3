"""Ranks, metrics, summaries and statistics. May import core and below."""
