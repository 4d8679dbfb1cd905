"""Figures and the self-contained HTML report of a study, from tidy tables only.

What lives here: `write.write_report` (the entry), `page` (what the page says), `narrative` (sentences made
from numbers), `visible` (hostile text made harmless to look at), `style` and the figure modules. No figure
and no sentence knows how a number was measured: everything comes from `tables/*.parquet` and `summary.json`.

May be called by `cli`; may call `study`, `stats` and `records`. Text from models is hostile input.
"""
