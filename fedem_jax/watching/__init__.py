"""Observers that write a run for a tracker of experiments. May import runs and all below."""
