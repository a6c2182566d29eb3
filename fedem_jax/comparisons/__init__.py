"""Methods side by side over several seeds. May import analysis and all below."""
