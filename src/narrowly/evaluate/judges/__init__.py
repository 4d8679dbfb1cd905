"""Judge free answers: what a judge is asked, how it is read without parsing prose, and what the verdicts add up to.

Asked: `rubric_files` (ours and published ones), `fence` (judged texts stay material), `judged` (an answer and its
identity), `asked` (how answers were drawn), `reader` (the protocol). Read: `local` (exactly, over the trie of all
replies), `endpoint` (first tokens), `replies` (their tokens), `published` (judgements in tables of others). Understood:
`scores` (a reading), `verdicts` (one class per answer), `verdict_rows` and `texts` (files). Counted: `rates`, `surface`
(cuts), `groups` (parts and rungs), `differences` (arms), `agreement` (judges), `labels` (humans), `instructing` (texts
that address the judge), `result`. Compared: `cells` (the same prompts on two sides), `components` (of the variance),
`gates` (a rise against its margin), `comparison`.
"""
