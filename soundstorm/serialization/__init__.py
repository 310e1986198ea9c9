"""Network weights in files: quantization, headers, bundled weights, and the provenance of weights."""
