"""Typed optimiser specs: `base` (what all share), `library`, `muon`, and `registry` (all of them by name).

`elsewhere` says what Muon and Lion are in other packages; `scale_rules` has the factors on a rate of Muon.
"""
