"""Train: one run. RunSpec in, run directory out, on `transformers.Trainer`.

Training knows nothing of evaluation: whoever wants numbers during a run passes observers in. `run.py` shows the whole
of a run; `objectives/` holds what is minimised.
"""
