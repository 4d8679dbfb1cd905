#!/usr/bin/env bash
# Starts a Slurm with two nodes, one and two, on this machine, for tests: start_slurm.sh DIR [CORES of a node].
# As root, without systemd.
#
# Needs Debian's packages slurm-wlm and munge. DIR gets configuration, state and logs; `stop_slurm.sh DIR` ends it. Then
#   export SLURM_CONF=DIR/slurm.conf
# Traps, all seen with 22.05.8: munged must run before the daemons are asked anything; without proctrack/linuxproc the
# first job drains the node; select/linear gives every job the whole node; a requeued job waits for the credentials of
# its first run to expire (AuthInfo); slurmd takes no more cores than there are without config_overrides.
set -euo pipefail
dir=$(realpath -m "${1:?usage: start_slurm.sh DIR [CORES]}")
cores=${2:-2}
host=$(hostname -s)
mkdir -p "$dir/state" "$dir/spool/one" "$dir/spool/two"

if ! munge -n </dev/null >/dev/null 2>&1; then
  mkdir -p /run/munge
  chown munge: /run/munge
  [ -s /etc/munge/munge.key ] || { dd if=/dev/urandom of=/etc/munge/munge.key bs=1024 count=1 status=none; chown munge: /etc/munge/munge.key; chmod 400 /etc/munge/munge.key; }
  runuser -u munge -- munged
fi

for gpu in 0 1; do  # made as /dev/null is: Slurm wants devices, and counts them
  [ -e "$dir/gpu$gpu" ] || mknod "$dir/gpu$gpu" c 1 3
done
cat >"$dir/gres.conf" <<CONF
NodeName=one,two Name=gpu File=$dir/gpu[0-1] Flags=nvidia_gpu_env
CONF
cat >"$dir/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthInfo=cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=5,batch_sched_delay=0,requeue_setup_env_fail
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=10
GresTypes=gpu
SlurmctldPort=16817
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd-%n.log
NodeName=one NodeHostname=$host NodeAddr=127.0.0.1 Port=16821 CPUs=$cores RealMemory=1000 Gres=gpu:2
NodeName=two NodeHostname=$host NodeAddr=127.0.0.1 Port=16822 CPUs=$cores RealMemory=1000 Gres=gpu:2
PartitionName=p Nodes=ALL Default=YES PriorityTier=1
PartitionName=urgent Nodes=ALL PriorityTier=10
CONF
export SLURM_CONF="$dir/slurm.conf"
slurmctld
slurmd -N one
slurmd -N two
for _ in $(seq 120); do
  if [ "$(sinfo --noheader --partition=p --format=%T 2>/dev/null)" = idle ]; then
    echo "$SLURM_CONF"
    exit 0
  fi
  sleep 0.5
done
echo "the nodes did not become idle; see $dir/slurmctld.log and $dir/slurmd-*.log" >&2
exit 1
