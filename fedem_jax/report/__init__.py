"""What a person sees of one run. May import runs and all below."""
