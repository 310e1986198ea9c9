"""Networks of the generator: settings, presets, initialization and checkpoints."""
