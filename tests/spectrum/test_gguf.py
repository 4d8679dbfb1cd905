"""LoRA in GGUF: what a llama.cpp server would apply, files that lie about their sizes, and the reference writer."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from narrowly.cli.app import execute
from narrowly.records.errors import AdapterError
from narrowly.spectrum import edit_adapter_folder, pairs_from_folder, survey_folder
from narrowly.spectrum.folder.gguf_file import GgufFile, write_gguf
from narrowly.spectrum.folder.gguf_names import to_llama_rows

R, EXPERTS = 4, 3
FIELDS: dict[str, str | int | float] = {
    "general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 6.0,
}  # fmt: skip


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tensors() -> dict[str, torch.Tensor]:
    return {
        "blk.0.attn_q.weight.lora_a": noise(R, 12, seed=1),
        "blk.0.attn_q.weight.lora_b": noise(16, R, seed=2),
        "blk.0.ffn_down.weight.lora_a": noise(2 * R, 20, seed=3),
        "blk.0.ffn_down.weight.lora_b": noise(12, 2 * R, seed=4),
        "blk.0.ffn_up_exps.weight.lora_a": noise(EXPERTS, R, 12, seed=5),
        "blk.0.ffn_up_exps.weight.lora_b": noise(EXPERTS, 20, R, seed=6),
        "token_embd.weight.lora_a": noise(15, R, seed=7),
        "token_embd.weight.lora_b": noise(12, R, seed=8),
    }


def applied(stored: dict[str, torch.Tensor], alpha: float) -> dict[str, torch.Tensor]:
    """What llama.cpp adds to each weight, by our names: alpha / rank of lora_b, or 1 where alpha is 0."""

    def both(name: str) -> tuple[torch.Tensor, torch.Tensor, float]:
        a, b = (stored[f"{name}.weight.lora_{side}"] for side in "ab")
        return a, b, alpha / b.shape[-1] if alpha else 1.0

    changes = {}
    for name, module in (("blk.0.attn_q", "blk.0.attn_q"), ("blk.0.ffn_down", "model.layers.0.mlp.down_proj")):
        a, b, strength = both(name)
        changes[module] = strength * b @ a
    a, b, strength = both("blk.0.ffn_up_exps")
    for expert in range(EXPERTS):
        changes[f"model.layers.0.mlp.experts.{expert}.up_proj"] = strength * b[expert] @ a[expert]
    a, b, strength = both("token_embd")
    changes["model.embed_tokens"] = strength * b @ a.T
    return changes


@pytest.mark.parametrize("alpha", [6.0, 0.0])
def test_a_gguf_adapter_is_read_as_what_a_server_adds(alpha: float, tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", FIELDS | {"adapter.lora.alpha": alpha}, tensors())
    expected = applied(tensors(), alpha)
    for path in (tmp_path / "a.gguf", tmp_path):
        pairs = pairs_from_folder(path)
        assert {pair.name for pair in pairs} == expected.keys()
        for pair in pairs:
            torch.testing.assert_close(pair.scale * pair.B_O_R @ pair.A_R_I, expected[pair.name], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "name"), [("llama", "blk.0.attn_q"), ("qwen3", "model.layers.0.self_attn.q_proj"), ("new", None)]
)
def test_rows_in_another_order_than_transformers_keep_the_name_that_says_so(
    architecture: str, name: str | None, tmp_path: Path
) -> None:
    """Compared with the module of that name, an adapter of llama.cpp's order would look like another update."""
    write_gguf(tmp_path / "a.gguf", FIELDS | {"general.architecture": architecture}, tensors())
    names = {pair.name for pair in survey_folder(tmp_path / "a.gguf").pairs}
    if name is None:
        assert all(one.startswith(("blk.0.", "token_embd")) for one in names)
    else:
        assert name in names


def test_the_order_of_llama_rows_is_that_of_its_rotary_pairs() -> None:
    heads, size = 2, 6
    rows = torch.arange(heads * size, dtype=torch.float32)[:, None]
    expected = [
        head * size + half * size // 2 + j for head in range(heads) for j in range(size // 2) for half in (0, 1)
    ]
    assert to_llama_rows(rows, heads)[:, 0].tolist() == expected


def test_a_gguf_adapter_has_a_spectrum_and_cannot_be_edited_in_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.gguf"
    write_gguf(file, FIELDS, tensors())
    assert execute(["spectrum", str(file), "--json"]) == 0
    capsys.readouterr()
    assert execute(["repair", str(file), "--edit", "flatten", "--out", str(tmp_path / "b")]) == 2
    assert "GGUF is what servers read; edit the adapter that the file was made of" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
    with pytest.raises(AdapterError, match="cannot be written back"):
        edit_adapter_folder(file, tmp_path / "b", "flatten")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"general.type": "model"}, r"general\.type is 'model' and adapter\.type 'lora', accepted: 'adapter'"),
        ({"adapter.type": "cvec"}, r"adapter\.type 'cvec'"),
        ({"adapter.lora.alpha": 16}, r"adapter\.lora\.alpha is 16, accepted: a float"),
        ({"adapter.lora.alpha": float("nan")}, r"scale is nan"),
        ({"adapter.alora.invocation_tokens": 1}, "aLoRA: the update acts behind its invocation tokens only"),
    ],
)
def test_what_is_no_lora_is_refused(fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", FIELDS | fields, tensors())
    with pytest.raises(AdapterError, match=words):
        survey_folder(tmp_path / "a.gguf")


# ------------------------------------------------------------------------------------------------- hostile files


def header(version: int = 3, tensors: int = 0, fields: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, fields)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


HUGE = 2**62
HOSTILE = {
    "empty": b"",
    "no GGUF": b"PK\x03\x04" + bytes(40),
    "version 1": header(version=1),
    "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "cut in the header": header()[:9],
    "endless tensors": header(tensors=HUGE),
    "endless fields": header(fields=HUGE),
    "many fields, none there": header(fields=10_000),
    "a long string": header(fields=1) + struct.pack("<Q", HUGE) + b"x",
    "an endless array": header(fields=1) + text("k") + struct.pack("<IIQ", 9, 0, HUGE),
    "an endless array of strings": header(fields=1) + text("k") + struct.pack("<IIQ", 9, 8, HUGE),
    "an array of arrays": header(fields=1) + text("k") + struct.pack("<IIQIQ", 9, 9, 1, 9, 1),
    "a field of no type": header(fields=1) + text("k") + struct.pack("<I", 99),
    "no alignment": header(fields=1) + text("general.alignment") + struct.pack("<II", 4, 0),
    "a crooked alignment": header(fields=1) + text("general.alignment") + struct.pack("<II", 4, 3),
    "many dimensions": header(tensors=1) + text("t") + struct.pack("<I", 2**31),
    "a huge tensor": header(tensors=1) + text("t") + struct.pack("<IQQIQ", 2, HUGE, HUGE, 0, 0),
    "a tensor beyond the end": header(tensors=1) + text("t") + struct.pack("<IQIQ", 1, 4, 0, HUGE),
    "a tensor twice": header(tensors=2) + 2 * (text("t") + struct.pack("<IQIQ", 1, 0, 0, 0)),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_that_lies_about_its_sizes_is_one_line(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(HOSTILE[kind])
    with pytest.raises(AdapterError, match=r"a\.gguf is not a valid GGUF file: it ") as caught:
        survey_folder(tmp_path / "a.gguf")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300 + len(str(tmp_path))


def test_a_file_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", FIELDS, {"blk.0.ffn_up.weight.lora_a": noise(R, 8)})
    whole = (tmp_path / "a.gguf").read_bytes()
    for length in range(0, len(whole) - 1, 7):
        (tmp_path / "cut.gguf").write_bytes(whole[:length])
        with pytest.raises(AdapterError):
            GgufFile(tmp_path / "cut.gguf")


def test_a_quantised_factor_is_left_out_by_the_name_of_its_type(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", FIELDS, tensors())
    raw = (tmp_path / "a.gguf").read_bytes()
    name = text("blk.0.ffn_down.weight.lora_a") + struct.pack("<IQQ", 2, 20, 2 * R)
    assert raw.count(name) == 1
    (tmp_path / "a.gguf").write_bytes(raw.replace(name + struct.pack("<I", 0), name + struct.pack("<I", 8)))
    (skipped,) = survey_folder(tmp_path / "a.gguf").skipped
    assert skipped.reason == "stored as Q8_0, accepted: F32, F16, BF16"


# ------------------------------------------------------------------------------------------------- the reference


def test_the_reference_package_reads_what_is_written(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the reference reader of GGUF, a development dependency")
    write_gguf(tmp_path / "a.gguf", FIELDS | {"general.file_type": 0}, tensors())
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert fields == FIELDS | {"general.file_type": 0}
    found = {one.name: torch.from_numpy(one.data.copy()) for one in reader.tensors}
    assert found.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_the_reference_package_writes_is_read(dtype: torch.dtype, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the reference writer of GGUF, a development dependency")
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "qwen3")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 6.0)
    writer.add_array("general.tags", ["a", "b"])
    stored = {name: tensor.to(dtype) for name, tensor in tensors().items()}
    for name, tensor in stored.items():
        if dtype == torch.bfloat16:
            kind = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(name, tensor.view(torch.uint8).numpy(), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor.numpy())
    for step in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file", "close"):
        getattr(writer, step)()
    file = GgufFile(tmp_path / "a.gguf")
    assert file.fields["general.architecture"] == "qwen3" and file.fields["general.tags"] is None
    for name, tensor in stored.items():
        assert torch.equal(file.get_tensor(name), tensor)
    assert len(pairs_from_folder(tmp_path / "a.gguf")) == 3 + EXPERTS
