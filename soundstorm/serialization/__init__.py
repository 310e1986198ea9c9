"""Networks in files: packed weights, headers, what ships in the package, and what weights were trained on."""
