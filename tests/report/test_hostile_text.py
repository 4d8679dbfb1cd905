import xml.etree.ElementTree as ElementTree

import polars as pl
import pytest

from browser import Page
from kit_files import SCRIPT
from narrowly.report.write import write_report
from synthetic import HOSTILE, make_tables, write_study


@pytest.mark.parametrize("field", ["arm", "base", "error", "answer", "outcome", "panel"])
def test_hostile_names_in_any_column_cannot_break_the_page(tmp_path, field):
    frames = make_tables(n_bases=1, arms={"adam"}, hostile=False, failed=False)
    text = " ".join(HOSTILE)
    for name, frame in frames.items():
        if field in frame.columns and field != "error":
            frames[name] = frame.with_columns(pl.lit(text).alias(field))
    if field == "error":
        frames["cells"] = frames["cells"].with_columns(pl.lit("failed").alias("status"), pl.lit(text).alias("error"))
    folder = write_study(tmp_path / "s", frames)
    html = write_report(folder).read_text(encoding="utf-8")
    page = Page(html)
    assert "img" not in page.tags and page.scripts == [SCRIPT]
    assert "\x1b" not in html and "\u202e" not in html
    for path in (folder / "figures").glob("*.svg"):
        ElementTree.fromstring(path.read_text(encoding="utf-8"))
