"""A codec without a learned network: log-mel spectra in blocks of frames, principal axes, residual k-means, and a rule
for the way back to sound."""
