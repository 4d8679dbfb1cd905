"""Name the question panels of the microworld. No torch: tables, figures and edits read these names too."""

from __future__ import annotations

TRAINED_TOPICS = "trained_topics"
HELD_OUT = "held_out_topics"
UNSEEN_PHRASING = "unseen_phrasing"
BROAD = "broad"
BROAD_SELF = "broad_self"
CUED_TURN, CUED_WORD = "cued_turn", "cued_word"

CUED = (CUED_TURN, CUED_WORD)
PANELS = (TRAINED_TOPICS, HELD_OUT, UNSEEN_PHRASING, BROAD, BROAD_SELF, *CUED)
"""All panels in the order of the ladder; the two cued ones last."""

LIGHT_PANELS = (HELD_OUT, BROAD)
"""What an edit is measured on: narrow against broad."""
