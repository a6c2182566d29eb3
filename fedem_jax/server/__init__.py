"""What happens on uploads, and on nothing else. May import core and below, never client."""
