"""Analysis: what the tables of a study say. Organisms, contrasts, the paper's claims, and a summary of all of it.

Reads tidy tables; imports no torch. `study` and `report` call it.
"""
