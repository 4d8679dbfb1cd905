"""Engines: where tasks run. A small protocol; behind it a pool of local processes, arrays of Slurm jobs, and Ray.

A task is a function by name and a JSON-able payload. No engine knows a cell, and none imports torch. Engines repeat
nothing by themselves: a task whose process died is an outcome, and the study decides.
"""
