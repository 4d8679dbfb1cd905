"""Workbench: one organism at a time. Find it by name, ask it, edit it, swap parts of two, publish it.

Called by `report` and `cli` only.
"""
