"""Personas of one model: extract a direction, watch it in runs, steer along it, flag rows, look into an adapter.

`opened` finds and loads a model for all of them, `contrasts` makes the two sides of a direction, `texts` their tokens,
`own_answers` lets a model answer, `panel` chooses the prompts that are watched, `reading_along` projects, `keywords`
counts words. Then `extract`, `watch`, `steer`, `flag` and `adapter`, one per command, and `dose` for the exact doses of
the microworld.
"""
