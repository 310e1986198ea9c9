"""The generator's networks, their settings and presets, their start and their files."""
