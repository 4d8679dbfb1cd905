"""Study: the only room that knows about many runs.

Study file -> plan (`plan`) -> executor (`executor`, `worker`) -> cells (`cell`, `claims`) -> tables
(`results`) -> summary (`summary`); `library` reads it all back. Training is wired to evaluation here, as
stages of a cell. The command line and the report call it; it calls every room below. Plans and the executor
import no torch; `cell` does, inside the workers.
"""
