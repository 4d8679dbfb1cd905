"""Records: the words that every other room speaks.

Typed specs and rows, outcome classes, the error tree, canonical JSON and hashes, atomic files. Anybody may import
from here; this room imports pydantic and the standard library only. The package itself imports nothing, so that
`narrowly.records.errors` and `narrowly.records.files` cost no pydantic import.
"""
