"""Statistics: intervals, crossed random effects, bootstrap, verdicts, power, regressions. Values in, values out.

Nothing here knows a table, an arm, a panel or a cell, and nothing is read or written. No torch.
"""
