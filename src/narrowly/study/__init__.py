"""Study: the only room that knows of many runs.

A study file becomes a plan, the plan becomes cells, and finished cells become tables and a summary. Training is wired
to evaluation here, as stages of a cell. Plans import no torch; cells do, inside the workers.
"""
