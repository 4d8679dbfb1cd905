"""Train: one run. RunSpec in, run directory out, on `transformers.Trainer`.

May be called by `evaluate`, `study`, `report` and `cli`; calls `microworld`, `data`, `optim`, `spectrum` and
`records`. Training knows nothing of evaluation: whoever wants numbers during a run passes observers in.

    run.py          train_run: the whole way from a spec to a finished run directory
    steps.py        its optimiser steps, of which a process takes all or a share
    launch.py       the processes of a run on several GPUs: started, listened to, ended
    ranks.py        what these processes tell each other: where to begin, and in every step a sum
    lifeline.py     processes that die with the one that started them
    inputs.py       what the names of a spec stand for: base, tokenizer, rows, by content
    directory.py    markers, identity and locking of a run directory
    order.py        which rows a step sees: a pure function of the seed
    schedule.py     learning-rate factor: a pure function of the step
    adapter.py      LoRA on a base, float32, initialised from the run seed only
    trainer.py      the Trainer with our loss over the whole effective batch, penalty and recording as callbacks
    observe.py      observers, and the guarantee that they cannot disturb a run
    checkpoint.py   adapters and exact resume state on disk
    environment.py  versions, platform, processes, threads
    recorder.py     trajectory rows, spectra and checkpoints as the run goes
    organism.py     a finished run as a model again
"""
