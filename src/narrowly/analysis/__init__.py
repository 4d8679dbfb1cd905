"""Analysis: what the tables of a study say, as frames, contrasts, verdicts on paper claims and a typed summary.

`tables` reads what `study` collected, `frames` builds the frames that all start from (`organisms`, `training`),
`ladder` lays out the rungs of every organism, `matching` compares any two sets of runs. `summary` makes the `Summary`
of `summary_schema` (`training_schema`) from them, with `arm_rows`, `panel_rates`, `edited`, `contrasts`, `selectivity`
and `evidence`. `paper_claims` decides the paper's statements by `claim_rules`, where the `design` can answer
(`claim_limits`). `evidence_summary` applies a preregistration, with `contrast_values` and `decisions`. `paired_answers`
says what the paired bank found, as the types of `paired_schema`; `paired_paths` follows runs beside their controls,
`matched_paths` compares them. `track` follows rates over folders of results, `stress_card` says what a stress test
found. Frames in, values out; imports no torch.
"""
