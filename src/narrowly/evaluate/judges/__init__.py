"""Judge free answers: rubrics and a fence around judged texts, judges that are read without parsing prose, verdicts.

An answer goes through `verdicts`, a prompt through `reader`. `rates` and what follows need only judged rows.
"""
