"""Analysis: what the tables of a study say, as frames, contrasts, verdicts on paper claims and a typed summary.

`tables` reads what `study` collected, `frames` builds the frames that all start from (`organisms`, `training`),
`ladder` lays out the rungs of every organism,
`summary` makes the `Summary` of `summary_schema` from them, with `panel_rates`, `contrasts` and `evidence`, and
`paper_claims` decides the paper's statements by `claim_rules`. `paired_answers` says what the paired bank found, as the
types of `paired_schema`; `paired_paths` follows runs beside their controls, `matched_paths` compares them; `matching`
compares any two sets of runs. Frames in,
values out; imports no torch.
"""
