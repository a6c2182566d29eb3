"""The commands of `fedem`. May import all other folders; nothing is computed here."""
