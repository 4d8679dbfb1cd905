"""Intervals, paired contrasts, regressions and verdicts on claims: pure functions on values and Polars frames.

What lives here: everything that turns measured numbers into statements with an interval and a denominator. The one
place with I/O is `tables`, which knows the schema of a study's Parquet tables and reads them.

May be called by `study`, `report` and `cli`; may call `records` only. No torch.
"""
