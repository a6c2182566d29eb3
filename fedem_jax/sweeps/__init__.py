"""Many settings of a method, stacked, and the best of them. May import compare and all below."""
