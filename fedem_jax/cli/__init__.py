"""The commands: what a person types. Imports everything below; nothing is computed here."""
