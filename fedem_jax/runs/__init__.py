"""A run from its first round to its summary. May import methods and all below."""
