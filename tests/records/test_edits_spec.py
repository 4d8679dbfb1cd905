"""Edits as specs: ids that stay, the short form of the command line, and every mistake in it in one line."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from narrowly.records.edits import Clip, DropTop, EditSpec, Flatten, KeepTop, Scale, edit_specs, parse_edit
from narrowly.records.errors import SpecError, UnknownNameError


@pytest.mark.parametrize(
    ("text", "edit"),
    [
        ("flatten", Flatten()),
        ("flatten:t=.5", Flatten(t=0.5)),
        ("keep_top", KeepTop(k=1)),
        ("drop_top:k=3", DropTop(k=3)),
        (" scale:factor=5e-1 ", Scale(factor=0.5)),
        ("clip:limit=2", Clip(limit=2)),
    ],
)
def test_the_short_form_means_the_spec(text, edit) -> None:
    assert parse_edit(text) == edit


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("flaten", "unknown edit 'flaten'; did you mean 'flatten'"),
        ("", "unknown edit ''"),
        ("flatten:", None),
        ("flatten:k=1", "found 'k=1' .*accepted: flatten:t=NUMBER"),
        ("flatten:t", "found 't'"),
        ("flatten:t=0", "t is '0', accepted: a number above 0, at most 1"),
        ("flatten:t=nan", "t is 'nan'"),
        ("flatten:t=.1,t=.2", "t is given twice"),
        ("scale", "factor is missing"),
        ("scale:factor=5", "factor is '5'"),
        ("drop_top:k=0", "k is '0', accepted: a whole number from 1"),
        ("drop_top:k=1.5", "k is '1.5'"),
        ("clip:limit=inf", "limit is 'inf', accepted: a number above 0"),
    ],
)
def test_a_mistake_in_the_short_form_is_one_line(text, words) -> None:
    if words is None:
        assert parse_edit(text) == Flatten()
        return
    with pytest.raises((SpecError, UnknownNameError), match=words) as caught:
        parse_edit(text)
    assert "\n" not in str(caught.value)


def test_the_ids_of_edits_made_before_there_was_a_strength_stay() -> None:
    """Organism-ids and folders hold them; a study done with the first release must find its edits again."""
    assert Flatten().model_dump(mode="json") == {"kind": "flatten"}
    assert Flatten().edit_id == "flatten"
    assert Scale(factor=0.5).edit_id == "scale-0.5"
    assert Flatten(t=0.5).model_dump(mode="json") == {"kind": "flatten", "t": 0.5}
    assert Flatten(t=0.5).edit_id == "flatten-0.5"
    assert Flatten().content_id != Flatten(t=0.5).content_id


@pytest.mark.parametrize("edit", [Flatten(), Flatten(t=0.25), Clip(limit=1.5), DropTop(k=2), Scale(factor=0.1)])
def test_an_edit_comes_back_from_its_json(edit) -> None:
    assert TypeAdapter(EditSpec).validate_python(edit.model_dump(mode="json")) == edit


def test_no_edit_at_all_is_refused() -> None:
    with pytest.raises(SpecError, match=r"edits is \[\], accepted: at least one edit"):
        edit_specs([])
