"""What happens on a device that holds private data. May import core and below, never server."""
