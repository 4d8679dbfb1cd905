"""Microworld: the embedded world in which emergent misalignment happens, exactly measurable.

Grammar and table (`world`), corpus, tokenizer, exact probabilities and judge, pretraining and shipped bases.
Training, evaluation, studies and the command line call it; it calls `data` and `records`. Read in this order: config,
world, corpus, pretrain, exact, bases.
"""
