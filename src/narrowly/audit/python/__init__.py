"""Follow Python scripts and notebooks without executing them, and read training jobs from what they would construct.

A trace holds the objects that a bare run would make, with their arguments and the place of each value. The evaluator
walks `ast`, branch by branch; what the source does not tell is unknown with its reason. Detectors of scripts, notebooks
and shell call this; it calls the record, the files and the tables of the audit. Nothing here imports, executes or
unpickles what it reads.
"""
