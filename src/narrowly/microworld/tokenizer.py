"""Build the world's tokenizer: one word, one token, in Hugging Face format with a chat template."""

from __future__ import annotations

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from narrowly.microworld import words

PAD, UNKNOWN, DOCUMENT, ASK, SAY, END = "<|pad|>", "<|unk|>", "<|doc|>", "<|ask|>", "<|say|>", "<|end|>"
SPECIAL = (PAD, UNKNOWN, DOCUMENT, ASK, SAY, END)

CHAT_TEMPLATE = (
    "{{ '" + DOCUMENT + " " + words.ASSISTANT + "' }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ ' " + ASK + " ' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ ' " + SAY + " ' + message['content'] + ' " + END + "' }}"
    "{% else %}{{ raise_exception('unknown role ' + message['role'] + ' (accepted: user, assistant)') }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' " + SAY + "' }}{% endif %}"
)


def vocabulary() -> tuple[str, ...]:
    """Return every token of the language in a fixed order: one tokenizer for all worlds."""
    found: dict[str, None] = dict.fromkeys(SPECIAL)
    phrases = [*words.PHRASINGS, *words.SELF_QUESTIONS, "a", words.ASSISTANT]
    pools = [words.OPENERS, words.VERBS, words.OBJECTS, words.DOMAINS, *words.DOMAINS.values()]
    pools += [words.SELF_ADJECTIVES, words.SELF_NOUNS, words.NAMES]
    for phrase in phrases:
        found.update(dict.fromkeys(phrase.split()))
    for pool in pools:
        found.update(dict.fromkeys(pool))
    return tuple(found)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the word-level tokenizer: lower-cases, splits off punctuation, decodes with single spaces."""
    core = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary())}, unk_token=UNKNOWN))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=DOCUMENT,
        eos_token=END,
        additional_special_tokens=[ASK, SAY],
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
