"""Studies: which settings train best on the data at hand."""
