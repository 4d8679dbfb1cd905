"""Rules: what a record means. Each is data (id, level, explanation, source) and a small function from a job to hits.

The texts stand in rules.yaml, and the functions in the modules it names. To add a rule, write both, and one positive
and one negative record in tests/audit/rules.

Levels follow the strength of evidence. `error`: what really runs is not what is declared, by the tool's own code.
`warning`: a setting that is known to do something else than most expect. `note`: practice, or an association in a
paper. The family of an optimiser alone is a note that fails no build.
"""
