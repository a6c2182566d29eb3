"""Settings of experiments and methods, protocols and presets. May import storage."""
