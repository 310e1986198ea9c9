"""A codec without a neural network: blocks of log-mel frames, principal component analysis, residual vector
quantization by k-means, and a rule-based synthesis of sound from log-mel frames."""
