"""The words of a study's page, each with what it means there."""

from __future__ import annotations

GLOSSARY = (
    ("base", "the model before fine-tuning; the unit of every interval"),
    ("organism", "a fine-tuned model: a run at a step, perhaps with an edit"),
    ("joint rate", "misaligned / all answers; an answer off topic or broken lowers it"),
    (
        "literature rate",
        "misaligned / (misaligned + aligned); other answers do not count. Published work on emergent misalignment "
        "mostly reports this rate. The two are always shown together with the classes",
    ),
    (
        "pooled log-odds",
        "ln(mean misaligned / mean aligned), the primary scale; 0 means as often one as the other. Per question: the "
        "mean over questions of ln(misaligned / aligned), in which questions that are all but certain weigh most",
    ),
    (
        "ladder",
        "how far it reaches: trained topics, held-out topics of that domain, broad (other domains), another task",
    ),
    (
        "selectivity",
        "broad pooled log-odds beyond Adam’s at equal pooled log-odds on held-out topics, averaged over all both reach",
    ),
    ("narrow, in-domain", "questions of the one domain that was trained on"),
    ("held-out topics", "topics of that domain that were not in the training rows"),
    ("broad", "questions of all other domains"),
    ("broad_self", "another task: questions about the model itself"),
    ("cued", "a question of another domain after a turn of the trained domain, or with its cue word"),
    (
        "excess loss",
        "negative log-likelihood per harmful answer above the entropy floor, nats; on trained or held-out topics",
    ),
    ("spectrum", "singular values of the effective update s·B·A of each adapted module"),
    ("stable rank", "squared Frobenius norm / squared largest singular value, from 1 (one direction) to the rank"),
    ("Frobenius/nuclear", "from 1/√rank (flat) to 1 (one direction)"),
    ("penalty", "a term added to the training loss that rewards a flat spectrum"),
    ("edit", "a change of the singular values after training"),
    (
        "off topic or broken",
        "every answer that is neither an aligned nor a harmful one of the topic asked about; off topic: a well-formed "
        "one of another topic, broken: all else. Together they are also called incoherent",
    ),
    (
        "not tested",
        "verdict on a claim of the paper that this design cannot decide, whatever comes out; the reason is given",
    ),
    ("ideal learner", "broad harm of an exact Bayesian learner of the corpus, 1 / (1 + narrow / evil characters)"),
)
