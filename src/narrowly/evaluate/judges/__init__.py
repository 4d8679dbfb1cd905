"""Judge free answers: what a judge is asked, how it is read without parsing prose, and what the verdicts add up to.

Asked: `rubric_files` (ours and published ones), `fence` (judged texts stay material), `judged` (an answer and its
identity), `asked` (how answers were drawn), `reader` (the protocol), `instructing` (answers that address the judge).
Read: `local` (exactly, over the trie of all replies), `endpoint` (first tokens), `replies` (their tokens), `published`
(judgements of result files). Understood: `scores` (a reading), `verdicts` (one class per answer), `verdict_rows` and
`texts` (files). Counted: `rates`, `surface` (cuts), `differences` (arms), `agreement` (judges), `labels` (humans),
`result`. Compared: `comparison` (two folders), `cells`, `components` (of the variance), `gates` (exit codes).
"""
