"""A tokenizer class that rebuilds its pipeline, as GPT2Tokenizer does, against the file that it was loaded from."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from narrowly.models.base import Base, load_tokenizer
from narrowly.records.errors import NarrowlyWarning


def saved(folder: Path, tokenizer_class: str) -> Base:
    """Write a tokenizer that keeps a bracket with the letter behind it, where GPT-2's splits them."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(r"[^\p{L}\p{N}]?\p{L}+|\p{N}|[^\p{L}\p{N}]"), "isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(["f(x) g(x) h(x)"] * 3, trainer)
    PreTrainedTokenizerFast(tokenizer_object=core).save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tokenizer_class": tokenizer_class}))
    return Base("small", folder)


def test_a_rebuilt_pipeline_is_told_with_a_line_and_the_way_to_that_of_the_file(tmp_path: Path) -> None:
    said = r"small: Transformers builds its GPT2Tokenizer anew, .* on \d of 10 probe lines .*TokenizersBackend"
    with pytest.warns(NarrowlyWarning, match=said):
        rebuilt = load_tokenizer(saved(tmp_path / "gpt2", "GPT2Tokenizer"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_in_file = load_tokenizer(saved(tmp_path / "file", "TokenizersBackend"))
    assert rebuilt.tokenize("(x") == ["(", "x"]
    assert as_in_file.tokenize("(x") == ["(x"]
