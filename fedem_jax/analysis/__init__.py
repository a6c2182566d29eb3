"""Audits, the aggregation bottleneck, and what a run costs. May import report and all below."""
