"""The command `slam bench`: speed and memory of a run, accuracy on data sets, kernel times."""
