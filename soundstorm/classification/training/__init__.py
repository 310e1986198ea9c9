"""How the three classifiers are trained: one base (`trainer`), and one trainer each."""
