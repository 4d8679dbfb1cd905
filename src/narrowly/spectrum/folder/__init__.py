"""Adapters on disk, whichever tool wrote them: one reader per layout, all of them giving pairs of s*B*A.

A reader opens no tensor: it says where each factor lies, as a key and a view of that tensor, so that what is read can
also be written back. `layout_of` finds the reader by what the files hold.
"""

from narrowly.spectrum.folder.detect import layout_of
from narrowly.spectrum.folder.layout import Layout
from narrowly.spectrum.folder.survey import CHUNK, pairs_from_folder, survey_chunks, survey_folder

__all__ = ["CHUNK", "Layout", "layout_of", "pairs_from_folder", "survey_chunks", "survey_folder"]
