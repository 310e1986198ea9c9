"""Sound itself: files and waveforms, their rate, channels and spectra, their variation and synthesis."""
