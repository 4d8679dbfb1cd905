"""Microworld: the embedded world in which emergent misalignment happens, exactly measurable.

Grammar and table of actions, corpus, tokenizer, exact probabilities and judge, pretraining and shipped bases. Calls
`data` and `records`. Read config.py first, then world.py, corpus.py, pretrain.py, exact.py and cards.py; the others:
words.py, tokenizer.py (the language), persona.py, lexical.py, measure.py and build.py (a new base), narrow.py,
benign.py, treated.py and elsewhere.py (fine-tuning data, treated, of other domains), judge.py, pairs.py and
off_topic.py (sampled answers, pairs of answers, other sentences).
"""
