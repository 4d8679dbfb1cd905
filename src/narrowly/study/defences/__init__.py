"""Defences: what keeps a narrow fine-tune narrow, one module each behind one protocol.

A defence turns the spec of an undefended run into what is trained, and into what happens to the organism afterwards. It
trains nothing itself.
"""
