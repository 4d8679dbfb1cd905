#!/usr/bin/env bash
# Ends the Slurm that start_slurm.sh DIR has started, with its jobs; munged stays.
set -uo pipefail
dir=$(realpath -m "${1:?usage: stop_slurm.sh DIR}")
export SLURM_CONF="$dir/slurm.conf"
scancel --user="$(id -u)" 2>/dev/null
for _ in $(seq 40); do
  [ -z "$(squeue --noheader 2>/dev/null)" ] && break
  sleep 0.5
done
for daemon in slurmd-one slurmd-two slurmctld; do
  [ -s "$dir/$daemon.pid" ] && kill "$(cat "$dir/$daemon.pid")" 2>/dev/null
done
for _ in $(seq 40); do
  [ -e "$dir/slurmd-one.pid" ] || [ -e "$dir/slurmd-two.pid" ] || [ -e "$dir/slurmctld.pid" ] || exit 0
  sleep 0.5
done
