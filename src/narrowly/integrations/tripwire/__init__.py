"""The tripwire: the log-odds of paired answers on a fixed sub-bank, read while a model trains, beside a control.

`wire.py` reads and compares, whatever trains; `control.py` finds and checks what is subtracted; `budget.py` keeps the
cost of readings below a share of the training time; `prompts.py` identifies the prompts of a training; `observer.py`
is the tripwire of our own training path. That of a Trainer is `narrowly.integrations.tripwire_callback`.
"""
