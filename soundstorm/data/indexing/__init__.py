"""The files and rows of a dataset in columns: a million of them take tens of megabytes."""
