"""Audio: files, waveforms, sample rates, channels and spectra; augmentation and synthesis."""
