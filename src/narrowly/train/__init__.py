"""Train: one run. RunSpec in, run directory out, on `transformers.Trainer`.

Training knows nothing of evaluation: whoever wants numbers during a run passes observers in. The function `train_run`
shows the whole of a run; what is minimised is an object of its own.
"""
