"""Publish an adapter of a run: write a folder with a model card, push it to the Hugging Face hub.

Everything is pushed privately. A public push has to be asked for twice (law 10 of the design: organisms are private
research objects); whatever was trained on harmful or unknown data carries a warning and a tag wherever it goes.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from narrowly.records.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, EDIT_RECORD
from narrowly.records.canonical import sha256_file, sha256_text
from narrowly.records.errors import AdapterError, IntegrityError, NarrowlyError, RunDirectoryError, SpecError
from narrowly.records.files import read_jsonl, read_record, whole_folder, write_json, write_text
from narrowly.records.install import with_todays_name
from narrowly.records.run_spec import RunSpec
from narrowly.runs import directory as run_files
from narrowly.runs.directory import check_identity, read_done, read_inputs, read_spec
from narrowly.workbench.gguf_export import GGUF_ADAPTER, write_gguf_adapter
from narrowly.workbench.model_card import TAG, Card, Evaluation, write_card

CONFIRMATION = TAG
"""What has to be typed behind --confirm for a public push."""

CARD, RECORD = "README.md", "narrowly.json"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_TOKEN = re.compile(r"[\x21-\x7e]+")
_CHECKPOINT = re.compile(r"step-(\d{1,12})")


class Adapter(NamedTuple):
    """Describe one adapter of a finished run, checked against the run's records.

    Attributes:
        run: the run directory; folder: of the adapter, inside of it.
        step: checkpoint that it is, or that was edited.
        edits: record of its edits, or None for an adapter as trained.
    """

    run: Path
    folder: Path
    step: int
    edits: dict[str, Any] | None


def check_name(name: str) -> str:
    """Return a repository's name.

    Raises:
        SpecError: it is not OWNER/NAME as the hub takes it.
    """
    if not _NAME.fullmatch(name) or "--" in name or ".." in name or name.endswith((".git", "-", ".")):
        raise SpecError(
            f"--to {name!r} is refused, accepted: OWNER/NAME of letters, digits, '-', '_' and '.', up to 96 each"
        )
    return name


def check_public(public: bool, confirm: str | None) -> None:
    """Let a public push through only where it was confirmed.

    Raises:
        SpecError: no confirmation, or one without a public push.
    """
    if public and confirm != CONFIRMATION:
        found = "--confirm is missing" if confirm is None else f"--confirm is {confirm!r}"
        raise SpecError(
            f"--public lets everybody download this adapter, and {found}; accepted: --public --confirm {CONFIRMATION}"
        )
    if confirm is not None and not public:
        raise SpecError("--confirm without --public: nothing is made public without it")


def adapter_of(run: Path, folder: Path) -> Adapter:
    """Return an adapter of a finished run after checking that the run's records know its weights.

    Raises:
        RunDirectoryError: no run, a foreign one, or one that is not finished.
        IntegrityError: weights or records that are not those of the run.
        AdapterError: no adapter there.
    """
    known = read_done(run).get("adapter_sha256")
    check_identity(run)
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file() or (folder / name).is_symlink():
            raise AdapterError(f"{folder} has no {name}; accepted: a PEFT adapter in safetensors")
    if not isinstance(known, dict):
        raise IntegrityError(f"{run / run_files.DONE} does not name the adapters of the run; it is corrupt or not ours")
    found = sha256_file(folder / ADAPTER_WEIGHTS)
    edits = read_record(folder / EDIT_RECORD) if (folder / EDIT_RECORD).is_file() else None
    origin = found if edits is None else edits.get("source_sha256")
    named = _CHECKPOINT.fullmatch(folder.name) if edits is None else None
    steps = [int(step) for step, sha256 in known.items() if sha256 == origin and str(step).isdecimal()]
    if named is not None:
        steps = [step for step in steps if step == int(named[1])]
    if not steps or (edits is not None and edits.get("sha256") != found):
        raise IntegrityError(f"{folder / ADAPTER_WEIGHTS} has sha256 {found}, which the records of {run} do not know")
    return Adapter(run, folder, max(steps), edits)


def harm_of(run: Path, spec: RunSpec) -> str | None:
    """Return why a run counts as trained on harmful data, or None where its data is known and carries no warning.

    What a spec calls its data is part of no id, so data counts as harmless only where it is at hand and has the sha256
    that the run was trained on. Everything else is unknown, and unknown counts as harmful.
    """
    from narrowly.data.harm import harm_of_data
    from narrowly.train.inputs import resolve_inputs

    harm = harm_of_data(spec.data)
    if harm is not None:
        return harm
    try:
        same = resolve_inputs(spec) == read_inputs(run)
    except (NarrowlyError, OSError) as error:
        return f"data that cannot be checked now ({type(error).__name__})"
    return None if same else "data that is not what the run's spec calls it"


def card_of(adapter: Adapter, *, public: bool = False, evaluations: Sequence[Evaluation] = ()) -> Card:
    """Return what the card of an adapter states.

    Args:
        adapter: what `adapter_of` returned.
        public: whether it is meant for everybody.
        evaluations: of this very adapter; none: the card says that it was not evaluated.

    Raises:
        IntegrityError: broken records.
        AdapterError: factors that cannot be read.
    """
    spec = read_spec(adapter.run)
    plain = _without_paths(spec)
    return Card(
        run_id=adapter.run.resolve().name,
        step=adapter.step,
        base=plain["base"],
        inputs=read_inputs(adapter.run).model_dump(mode="json"),
        harm=harm_of(adapter.run, spec),
        public=public,
        spec=plain,
        spectrum=_spectrum(adapter.folder),
        losses=_losses(adapter),
        edits=adapter.edits,
        evaluations=evaluations,
        versions=_versions(adapter.run),
    )


def _spectrum(folder: Path) -> dict[str, Any]:
    from narrowly.spectrum.metrics import folder_spectrum, rank_means, spectrum_summary

    rows, skipped = folder_spectrum(folder)
    return {
        "update_norm": spectrum_summary(rows)["update_norm"],
        "by_rank": [group._asdict() for group in rank_means(rows)],
        "no_pair": {one.name: one.reason for one in skipped},
    }


def write_folder(adapter: Adapter, card: Card, target: Path, *, gguf: bool = False) -> Path:
    """Write what is pushed: weights, config, chat template, the record of the run, and the card.

    Args:
        adapter: what `adapter_of` returned.
        card: what `card_of` returned for it.
        target: a folder that does not exist; it appears whole or not at all.
        gguf: whether to add the adapter as LoRA in GGUF (`gguf_export`).

    Raises:
        RunDirectoryError: the target exists or cannot be written.
        IntegrityError: broken records.
        AdapterError: an adapter or a base that cannot be written as GGUF.
    """
    if target.exists() or target.is_symlink():
        raise RunDirectoryError(f"{target} exists already; choose another folder or remove it")
    with whole_folder(target) as unfinished:
        shutil.copyfile(adapter.folder / ADAPTER_WEIGHTS, unfinished / ADAPTER_WEIGHTS)
        config = read_record(adapter.folder / ADAPTER_CONFIG)
        write_json(unfinished / ADAPTER_CONFIG, {**config, "base_model_name_or_path": card.base})
        stated = card._asdict() | {"evaluations": [one._asdict() for one in card.evaluations]}
        write_json(unfinished / RECORD, stated)
        _copy_template(adapter.run, card.inputs["template_sha256"], unfinished)
        if gguf:
            from narrowly.models.organism import base_of_run

            write_gguf_adapter(adapter.folder, base_of_run(adapter.run).folder, unfinished / GGUF_ADAPTER)
        write_text(unfinished / CARD, write_card(card, GGUF_ADAPTER if gguf else None))
    return target


def _without_paths(spec: RunSpec) -> dict[str, Any]:
    """Return the spec with only the last part of every path in it, so that no folder is published."""
    from narrowly.models.hub import is_hub_name

    plain = spec.model_dump(mode="json")
    plain["base"] = _base_name(spec.base) if not is_hub_name(spec.base) else spec.base.partition("@")[0]
    for field in ("path", "dataset", "template"):
        value = plain["data"].get(field)
        if isinstance(value, str) and not value.startswith("hf:"):
            plain["data"][field] = re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    return plain


def _base_name(base: str) -> str:
    return re.split(r"[\\/]", base.rstrip("\\/"))[-1] or "base"


def _losses(adapter: Adapter) -> dict[str, Any]:
    """Return what the trajectory has at the adapter's step; nothing for an edited one, whose losses are unknown."""
    file = adapter.run / run_files.TRAJECTORY
    if adapter.edits is not None or not file.is_file():
        return {}
    for row in read_jsonl(file):
        if isinstance(row, dict) and row.get("step") == adapter.step:
            return {name: row[name] for name in ("loss", "heldout_loss") if isinstance(row.get(name), int | float)}
    return {}


def _versions(run: Path) -> dict[str, Any]:
    file = run / run_files.ENVIRONMENT
    versions = read_record(file).get("versions") if file.is_file() else None
    return with_todays_name(versions) if isinstance(versions, dict) else {}


def _copy_template(run: Path, sha256: str, staging: Path) -> None:
    file = run / run_files.TEMPLATE
    if not file.is_file():
        return
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{file} is not UTF-8 text") from error
    if sha256_text(text) != sha256:
        raise IntegrityError(f"{file} is not the chat template that the run was trained with")
    write_text(staging / run_files.TEMPLATE, text)


def token_of_environment() -> str:
    """Return the hub's token from HF_TOKEN; it is read from nowhere else and shown nowhere.

    Raises:
        SpecError: there is none, or it holds characters that no token has.
    """
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise SpecError("no token: the environment variable HF_TOKEN is empty, accepted: a token that may write")
    if not _TOKEN.fullmatch(token):
        raise SpecError("HF_TOKEN holds characters that no token has; it is not shown here")
    return token


def push(folder: Path, name: str, *, public: bool, token: str, api: Any = None) -> str:
    """Push a folder that `write_folder` wrote to the hub; return the repository's address.

    Privacy is asked of the hub again before the first byte is sent: a repository that existed keeps its own.

    Args:
        folder: with the card.
        name: OWNER/NAME.
        public: whether everybody may read it.
        token: of the hub.
        api: a `huggingface_hub.HfApi`; None makes one.

    Raises:
        SpecError: the repository has files already, or another visibility than asked for.
        RunDirectoryError: the hub refuses or cannot be reached; the token is in no message.
    """
    if api is None:
        from huggingface_hub import HfApi

        api = HfApi(token=token)
    check_name(name)
    try:
        api.create_repo(repo_id=name, repo_type="model", private=not public, exist_ok=True)
        info = api.repo_info(repo_id=name, repo_type="model")
        held = [file.rfilename for file in info.siblings or () if file.rfilename != ".gitattributes"]
        if info.private is not (not public):
            found, wanted = ("private", "public") if public else ("public", "private")
            raise SpecError(
                f"{name} exists and is {found}, asked for: {wanted}; nothing was pushed, choose another name"
            )
        if held:
            raise SpecError(f"{name} has {len(held)} files already ({held[0]} ...); nothing was pushed")
        api.upload_folder(
            repo_id=name, repo_type="model", folder_path=str(folder), commit_message="Adapter with its model card"
        )
    except NarrowlyError:
        raise
    except Exception as error:
        reason = " ".join(str(error).replace(token, "***").split())[:300]
        raise RunDirectoryError(f"the hub did not take {name}: {type(error).__name__}: {reason}") from None
    return f"https://huggingface.co/{name}"
