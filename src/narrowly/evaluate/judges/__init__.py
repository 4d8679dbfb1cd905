"""Judge free answers: what a judge is asked, how it is read without parsing prose, and what the verdicts add up to.

Asked: `rubric_files` (ours and published ones), `fence` (judged texts stay material), `judged` (an answer and its
identity), `reader` (the protocol). Read: `local` (exactly, over the trie of all replies), `endpoint` (first tokens),
`replies` (their tokens). Understood: `scores` (a reading), `verdicts` (one class per answer), `verdict_rows` (files).
Counted: `rates`, `surface` (cuts), `differences` (arms), `agreement` (judges), `labels` (humans), `result`.
"""
