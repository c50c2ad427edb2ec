"""The studies that the notebooks run: checks of a cohort and of a plan, sampling, ensembles, the comparison,
speed.

Each returns a DataFrame with one row per measured thing, which results/*.csv keeps and figures, sentences and
the report read. Errors are in Gy on the case's own grid, inside the dose mask unless named.
"""
