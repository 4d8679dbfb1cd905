"""Read shell and Slurm scripts as text: commands with their arguments, variables filled in, nothing executed."""
