"""Audit: the fine-tuning jobs that a folder declares, which optimiser really runs, and what is known of it.

Lives here: the walk over files, one detector per tool, tables of defaults, the record of a job with the provenance of
every field, and rules that turn records into findings. Nothing found is imported, executed or unpickled. The command
line and the reports may call it; it calls `narrowly.records`, the standard library and PyYAML, and never torch.

- `record`: Field and Job, what every detector returns
- `folders`: the walk; `files`: SourceFile and Repository, what every detector is given
- `trees`: YAML, JSON and TOML with the line of every key
- `values`, `optimiser_names`: what a file says, brought to the type of its field and to canonical names
- `detectors`: one module per tool
- `python`, `shell`: what scripts, notebooks and commands would start, followed without executing them
- `defaults`, `versions`: what a tool takes where nothing is said, by version
- `rules`: findings from records
- `scan`: every file past the detectors
- `review`, `settings`: a scan with its findings, and what `.narrowly.toml` ignores
- `sarif`: a review for code scanning
"""
