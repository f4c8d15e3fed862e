#!/bin/sh
# A SLURM of this machine alone, to try executor slurm without a cluster: node.sh start FOLDER
# starts the daemons of Debian's packages slurmctld, slurmd and munge, with their state in FOLDER;
# node.sh stop FOLDER ends them. /etc/slurm/slurm.conf, where jobs look, must be free: Snakemake's
# plugin takes SLURM_CONF away from the steps of its jobs.
set -eu
what="${1:-}"
folder="${2:-}"
if [ -z "$folder" ] || { [ "$what" != start ] && [ "$what" != stop ]; }; then
    echo "usage: node.sh start|stop FOLDER, not ${*:-nothing}" >&2
    exit 2
fi
PATH="$PATH:/usr/sbin:/sbin"
mkdir -p "$folder/state" "$folder/spool"
folder=$(cd "$folder" && pwd)
conf=/etc/slurm/slurm.conf
if [ "$what" = stop ]; then
    for daemon in slurmctld slurmd munged; do # gone daemons leave their files
        [ -s "$folder/$daemon.pid" ] && kill "$(cat "$folder/$daemon.pid")" 2>/dev/null || true
    done
    [ "$(readlink "$conf")" = "$folder/slurm.conf" ] && rm "$conf"
    exit 0
fi
for command in munged slurmctld slurmd sbatch; do
    command -v "$command" >/dev/null || { echo "node.sh: $command is not installed; Debian has it \
in slurmctld, slurmd, slurm-client and munge" >&2; exit 1; }
done
if [ -e "$conf" ]; then
    echo "node.sh: $conf is there; this machine has a SLURM of its own" >&2
    exit 1
fi
host=$(hostname -s)
cores=$(env -u OMP_NUM_THREADS nproc) # nproc takes that for the number of cores
[ -f "$folder/key" ] || (umask 077 && head -c 1024 /dev/urandom >"$folder/key")
port() { # a free one
    python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
}
# no accounting, no cgroups: what a container without systemd allows
cat >"$folder/slurm.conf" <<CONF
ClusterName=alone
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(port)
SlurmdPort=$(port)
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores CoresPerSocket=$cores RealMemory=$(free -m | awk '/^Mem/ {print $2}') State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
version=v1 # also where both are mounted, which SLURM's plugin of version 2 refuses
[ -f /sys/fs/cgroup/cgroup.controllers ] && version=v2
printf 'CgroupPlugin=cgroup/%s\nIgnoreSystemd=yes\n' "$version" >"$folder/cgroup.conf"
munged --force --key-file="$folder/key" --socket="$folder/munge.socket" \
    --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/seed"
mkdir -p "${conf%/*}"
ln -s "$folder/slurm.conf" "$conf"
slurmctld
slurmd -N "$host"
for _ in $(seq 60); do
    [ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ] && exit 0
    sleep 0.5
done
echo "node.sh: the node is not idle after 30 s; see $folder/slurmctld.log and slurmd.log" >&2
exit 1
