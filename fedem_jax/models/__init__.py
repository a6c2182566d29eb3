"""Backbones, adapters and losses of one client. Imports no other folder."""
