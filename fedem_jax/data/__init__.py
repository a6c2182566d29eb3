"""Ratings files to interactions to federations. May import config."""
