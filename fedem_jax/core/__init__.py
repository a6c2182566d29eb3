"""A round over all clients, for any method. May import data and all below."""
