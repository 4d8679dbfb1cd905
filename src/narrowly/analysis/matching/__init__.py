"""Matching: two sets of runs compared at equal held-out misalignment, norm, loss or step.

`compare` checks two sets of ladder rows and compares them, `contrast` decides one pair of branches, `curves` makes the
curves of a set, `measures` names what is matched on and compared, `questions` lays out what each question gave,
`schema` is the record of it all, `selectivity` compares an arm of a study with its reference.
"""
