"""Matching: two sets of runs compared at equal held-out misalignment, norm, loss or step.

`runs` goes from the tables of studies to a comparison: `selection` picks the sets, `questions` and `pairs` lay out what
each question gave. `compare` checks two sets of ladder rows and compares them, `contrast` decides one pair of branches,
`curves` makes the curves of a set, `measures` names what is matched on and compared. `schema` is the record of it all.
"""
