"""Backbones and adapters: flax modules of one client."""
