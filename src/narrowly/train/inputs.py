"""What the names of a RunSpec stand for: base folder, tokenizer, chat template and rows, by content.

Nothing in a base folder is trusted: weights are safetensors or refused, no code of a model repository is run,
and where a card gives a sha256 the weights must match it.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from narrowly.data.rows import Row, check_rows, read_rows, rows_sha256
from narrowly.records.canonical import canonical_json, sha256_file, sha256_text
from narrowly.records.errors import IntegrityError, SpecError
from narrowly.records.files import read_json
from narrowly.records.run_spec import BaseDtype, MicroData, ResolvedInputs, RowsData, RunSpec, TextData
from narrowly.train.hub import hub_folder, is_hub_name
from narrowly.train.quiet import no_progress_bars

if TYPE_CHECKING:
    from torch import nn

    from narrowly.train.text_data import TextRows

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"

LOCAL_CONFIG_FIELDS = frozenset({"_name_or_path", "transformers_version", "dtype", "torch_dtype"})
"""Fields of config.json that say where a file came from or how it is stored, not what the model computes in float32."""


class BaseFolder(NamedTuple):
    """A base on disk: a name without machine paths, and the folder with its files."""

    name: str
    folder: Path


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


def find_base(name_or_path: str) -> BaseFolder:
    """Return the base that a spec means: a shipped base's name, a folder with config.json, or a model of the hub.

    A plain name means the shipped base even where a folder of that name is at hand (`./micro-0` means the folder), as
    everywhere else: training and evaluation must never mean two different models by one name.

    Raises:
        UnknownNameError: neither a folder nor a shipped base; the message names the nearest match.
        SpecError: a model of the hub without a pinned commit, or one that is not in the local cache.
    """
    folder = Path(name_or_path).expanduser()
    if not folder.exists() and is_hub_name(name_or_path):
        return BaseFolder(*hub_folder(name_or_path))
    if folder.name == name_or_path or not (folder / "config.json").is_file():
        from narrowly.microworld.bases import base_folder

        folder = base_folder(name_or_path)
    card = folder / "card.json"
    name = _read_object(card).get("name") if card.is_file() else None
    return BaseFolder(str(name or folder.resolve().name), folder)


def _read_object(file: Path) -> dict[str, Any]:
    value = read_json(file)
    if not isinstance(value, dict):
        raise IntegrityError(f"{file} holds a {type(value).__name__}, accepted: a JSON object")
    return value


@functools.lru_cache(maxsize=256)
def _sha256_of_version(path: Path, size: int, modified_ns: int) -> str:
    return sha256_file(path)


def _sha256(path: Path) -> str:
    # one study asks for the same base hundreds of times; a changed file has another size or time and is read again
    status = path.stat()
    return _sha256_of_version(path, status.st_size, status.st_mtime_ns)


def _weights_sha256(folder: Path) -> str:
    """Return the sha256 of the weights file, or of the names and hashes of all shards."""
    if (folder / WEIGHTS).is_file():
        return _sha256(folder / WEIGHTS)
    if (folder / WEIGHTS_INDEX).is_file():
        index = _read_object(folder / WEIGHTS_INDEX)
        shards = sorted(set(index.get("weight_map", {}).values()))
        if any(Path(shard).name != shard for shard in shards):
            raise IntegrityError(f"{folder / WEIGHTS_INDEX} names files outside of its folder; it is refused")
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing or not shards:
            raise IntegrityError(f"{folder} lacks {', '.join(missing) or 'every shard'} of {WEIGHTS_INDEX}")
        return sha256_text(canonical_json({shard: _sha256(folder / shard) for shard in shards}))
    found = sorted(path.name for path in folder.iterdir())
    raise SpecError(
        f"base {folder} has no {WEIGHTS} (found: {', '.join(found)}); other weight formats are never loaded"
    )


def base_sha256(base: BaseFolder) -> str:
    """Return the sha256 of a base's weights as a run records it."""
    return _weights_sha256(base.folder)


def check_card(base: BaseFolder) -> None:
    """Compare the weights with the base's card, where it has one.

    Raises:
        IntegrityError: the weights are not those of the card; both hashes are named.
    """
    card = base.folder / "card.json"
    if not card.is_file():
        return
    recorded, found = _read_object(card).get("sha256"), _weights_sha256(base.folder)
    if recorded is not None and recorded != found:
        raise IntegrityError(
            f"base {base.name}: the weights in {base.folder} have sha256 {found}, its card says {recorded}; "
            "the file is damaged or was exchanged"
        )


def _template(folder: Path) -> str:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    settings = folder / "tokenizer_config.json"
    template = _read_object(settings).get("chat_template") if settings.is_file() else None
    # older folders hold a list of named templates inside the settings; its JSON is as good a text to hash as any
    return template if isinstance(template, str) else json.dumps(template or "")


def model_config(folder: Path) -> dict[str, Any]:
    """Return config.json without the fields that say only where it came from.

    Raises:
        SpecError: no config.json, or one that asks for code outside of transformers.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise SpecError(f"base {folder} has no config.json; accepted: a folder that save_pretrained wrote")
    config = _read_object(file)
    if "auto_map" in config:
        raise SpecError(f"base {folder} needs code of its own (auto_map in config.json); it is never run")
    if "quantization_config" in config:
        raise SpecError(
            f"base {folder} is quantised already (quantization_config in config.json), accepted: the weights that it "
            "was made from; base_dtype nf4 quantises them"
        )
    return {key: value for key, value in config.items() if key not in LOCAL_CONFIG_FIELDS}


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
    from narrowly.train.text_data import text_rows

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


def load_model(base: BaseFolder, dtype: BaseDtype = "float32", device: str = "cpu") -> nn.Module:
    """Load a base as a causal language model, in eval mode, without dropout of its own.

    Args:
        base: the base.
        dtype: of its weights and activations.
        device: where nf4 is quantised, and stays; every other base is on the CPU.

    Raises:
        SpecError: transformers cannot load the base, or its config asks for dropout, which no field of a RunSpec
            would show.
        MissingExtraError: nf4 without bitsandbytes.
        IntegrityError: the stored weights are incomplete.
    """
    from transformers import AutoModelForCausalLM

    config = model_config(base.folder)
    noisy = {
        key: value
        for key, value in config.items()
        if ("dropout" in key or key.endswith("pdrop")) and isinstance(value, int | float) and value > 0
    }
    if noisy:
        found = ", ".join(f"{key} {value}" for key, value in sorted(noisy.items()))
        raise SpecError(
            f"base {base.name} has {found} in config.json, accepted: 0; dropout belongs to the adapter "
            "(adapter.dropout)"
        )
    import torch
    from safetensors import SafetensorError

    from narrowly.train.nf4 import nf4_options, settle_quantised

    options = nf4_options(device) if dtype == "nf4" else {"dtype": getattr(torch, dtype)}
    try:
        with no_progress_bars():
            model, found = AutoModelForCausalLM.from_pretrained(
                base.folder,
                **options,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise SpecError(
            f"base {base.name} in {base.folder} cannot be loaded as a causal language model: {reason}"
        ) from error
    absent = sorted(found["missing_keys"])
    if absent:  # transformers would draw them at random and only warn
        raise IntegrityError(f"base {base.name}: {len(absent)} weights are missing in {base.folder} ({absent[0]} ...)")
    if dtype == "nf4":
        settle_quantised(model, base.name)
    model.eval()
    return model  # type: ignore[no-any-return]


def load_tokenizer(base: BaseFolder) -> Any:
    """Load the tokenizer of a base; no code of its folder is run."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base.folder, local_files_only=True, trust_remote_code=False)
