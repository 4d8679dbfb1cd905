"""Compare the tokenizer that Transformers builds with its file: some classes rebuild what tokenizer.json says."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

from narrowly.records.canonical import cached_sha256
from narrowly.records.errors import NarrowlyWarning

AS_IN_FILE = "TokenizersBackend"
"""The class of Transformers 5 that takes tokenizer.json as it is."""

PROBES = (
    "Hello, world!",
    "    return x",
    " a blank in front",
    "def f(x):\n\n\treturn x  # twice\n",
    "1234567 and 3.14",
    "it's I'LL don't",
    "HTTPServer fooBar snake_case",
    "naïve café — 日本語 🙂",
    "  \n",
    "#include <stdio.h>\r\n",
)
"""Lines on which rebuilt pipelines are known to differ: blanks in front, digits, runs of blanks, contractions, capitals
(of 200 lines, 66 differ for Llama 2 and 105 for GPT-4o under Transformers 5.23.0)."""


@functools.lru_cache(maxsize=4)
def _of_file(file: Path, sha256: str) -> tuple[tuple[int, ...], ...]:
    from tokenizers import Tokenizer

    core = Tokenizer.from_file(str(file))
    return tuple(tuple(core.encode(line, add_special_tokens=False).ids) for line in PROBES)


def tell_of_other_tokens(tokenizer: Any, folder: Path, name: str) -> None:
    """Warn where a loaded tokenizer gives other tokens than the tokenizer.json it was loaded from.

    Args:
        tokenizer: as `AutoTokenizer` built it.
        folder: with tokenizer.json.
        name: of the base, for the message.
    """
    found, file = type(tokenizer).__name__, folder / "tokenizer.json"
    if found == AS_IN_FILE or not file.is_file():
        return
    loaded = [tuple(ids) for ids in tokenizer(list(PROBES), add_special_tokens=False)["input_ids"]]
    pairs = zip(PROBES, loaded, _of_file(file, cached_sha256(file)), strict=True)
    other = [(line, len(ours), len(theirs)) for line, ours, theirs in pairs if ours != theirs]
    if other:
        line, ours, theirs = other[0]
        warnings.warn(
            f"{name}: Transformers builds its {found} anew, which gives other tokens than tokenizer.json on "
            f"{len(other)} of {len(PROBES)} probe lines ({line!r}: {ours} tokens, {theirs} in the file); for those, "
            f'write "tokenizer_class": "{AS_IN_FILE}" into a copy of tokenizer_config.json',
            NarrowlyWarning,
            stacklevel=3,
        )
