"""The three studies that the notebooks run: sampling, ensembles, the comparison of methods.

Each returns rows (dicts of plain numbers, one per patient and setting) that results/*.json keeps and figures,
sentences and the report read. Errors are in Gy on the case's own grid, inside the dose mask unless named.
"""
