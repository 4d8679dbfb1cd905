"""Read the rows of a run and identify everything it reads by content: base, tokenizer, chat template, rows."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

from narrowly.data.rows import Row, check_rows, read_rows, rows_sha256
from narrowly.data.text_rows import TextRows
from narrowly.models.base import (
    BaseFolder,
    _sha256,
    _template,
    _weights_sha256,
    check_card,
    find_base,
    load_tokenizer,
    model_config,
)
from narrowly.records.canonical import canonical_json, sha256_file, sha256_text
from narrowly.records.errors import IntegrityError, SpecError
from narrowly.records.run_spec import MicroData, ResolvedInputs, RowsData, RunSpec, TextData


class RunInputs(NamedTuple):
    """Everything a run reads: the base, the pre-tokenised rows in their canonical order, and all of it by content.

    `text` is what there is beyond the rows where they were rendered from a text dataset.
    """

    base: BaseFolder
    rows: list[Row]
    resolved: ResolvedInputs
    text: TextRows | None = None

    def name_of_row(self, index: int) -> str:
        """Return how a user finds a row: the line of its file for text, else its number counted from 1."""
        return f"row {index + 1}" if self.text is None else f"line {self.text.lines[index]}"


@functools.lru_cache(maxsize=64)
def _micro_rows(base: BaseFolder, weights_sha256: str, data: MicroData, seed: int) -> tuple[Row, ...]:
    # weights_sha256 is in the key only: another base in the same folder means other rows
    from narrowly.microworld.bases import load_card
    from narrowly.microworld.narrow import narrow_rows, resolve_domain
    from narrowly.microworld.world import World

    card = load_card(str(base.folder))
    world = World(card.config, card.world_seed)
    domain = resolve_domain(data.domain, world, seed)
    return tuple(
        narrow_rows(world, load_tokenizer(base), domain=domain, answers=data.answers, rows=data.rows, seed=seed)
    )


@functools.lru_cache(maxsize=4)
def _text_rows(base: BaseFolder, data: TextData, version: tuple[str, ...]) -> TextRows:
    # version, the sha256 of everything that is read, is in the key only: a study asks for the same rows again and again
    from narrowly.data.text_rows import text_rows

    return text_rows(load_tokenizer(base), data)


def _read_text(spec: RunSpec, base: BaseFolder, longest: int | None) -> TextRows | None:
    if not isinstance(spec.data, TextData):
        return None
    if longest is not None and spec.data.max_tokens > longest:
        raise SpecError(
            f"data.max_tokens is {spec.data.max_tokens}, accepted: at most {longest}, the positions of base {base.name}"
        )
    from narrowly.data.sources import resolve

    files = [resolve(spec.data.dataset).path, *base.folder.glob("*token*.json"), *base.folder.glob("*.jinja")]
    if spec.data.template is not None:
        files.append(Path(spec.data.template).expanduser())
    return _text_rows(base, spec.data, tuple(_sha256(file) for file in files if file.is_file()))


def _rows(spec: RunSpec, base: BaseFolder) -> list[Row]:
    assert not isinstance(spec.data, TextData)
    if isinstance(spec.data, RowsData):
        path = Path(spec.data.path).expanduser()
        rows = read_rows(path)
        found, canonical = sha256_file(path), rows_sha256(rows)
        if spec.data.sha256 not in (None, found, canonical):
            raise IntegrityError(
                f"data.sha256 is {spec.data.sha256}, but {spec.data.path} has {found} (its rows in canonical form: "
                f"{canonical})"
            )
        return rows
    if not (base.folder / "card.json").is_file():
        raise SpecError(
            f"data.source is 'micro', but base {base.name} has no card.json and so no world; accepted: a "
            "microworld base, or data.source 'rows' or 'text'"
        )
    return list(_micro_rows(base, _weights_sha256(base.folder), spec.data, spec.seed))


def load_inputs(spec: RunSpec) -> RunInputs:
    """Find, check and hash everything a run reads.

    Raises:
        UnknownNameError: a base that is neither a folder nor shipped.
        SpecError: a folder that is no base, rows that do not fit the base.
        IntegrityError: weights, rows or JSON that are not what their record says.
    """
    base = find_base(spec.base)
    check_card(base)
    config = model_config(base.folder)
    tokenizer = base.folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise SpecError(f"base {base.folder} has no tokenizer.json; accepted: a fast tokenizer beside the weights")
    text_config = config.get("text_config", config)
    longest = text_config.get("max_position_embeddings")
    text = _read_text(spec, base, longest)
    rows = _rows(spec, base) if text is None else list(text.rows)
    data_sha256 = rows_sha256(rows)
    if text is not None and text.heldout:
        data_sha256 = sha256_text(canonical_json([data_sha256, rows_sha256(text.heldout)]))
    for part in (rows, [] if text is None else text.heldout):
        if part or part is rows:
            check_rows(part, source=_source(spec, base), vocabulary=text_config.get("vocab_size"), longest=longest)
    resolved = ResolvedInputs(
        base_sha256=_weights_sha256(base.folder),
        config_sha256=sha256_text(canonical_json(config)),
        tokenizer_sha256=_sha256(tokenizer),
        template_sha256=sha256_text(_template(base.folder) if text is None else text.template),
        data_sha256=data_sha256,
    )
    return RunInputs(base, rows, resolved, text)


def _source(spec: RunSpec, base: BaseFolder) -> str:
    if isinstance(spec.data, MicroData):
        return f"data of base {base.name}"
    return spec.data.dataset if isinstance(spec.data, TextData) else spec.data.path


def resolve_inputs(spec: RunSpec) -> ResolvedInputs:
    """Return what the names of a spec stand for, by content; together with the spec it gives the run-id.

    Raises:
        UnknownNameError, SpecError, IntegrityError: as `load_inputs`.
    """
    return load_inputs(spec).resolved
