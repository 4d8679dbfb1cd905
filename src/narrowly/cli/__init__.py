"""Command line: one thin file per command; parse, call, print. No logic.

`app.main` is the entry point; the folders group the commands by what they act on. Nothing here imports torch at module
level, so that `narrowly --help`, plans and status need only the core install. Everything that comes from models or
files goes through `terminal.safe`.
"""
