#!/bin/sh
# A SLURM cluster of one node on this machine: controller, node and munge, with all their files in one folder.
#   apt-get install --no-install-recommends slurm-wlm munge
#   tests/cluster/slurm.sh start FOLDER && export SLURM_CONF=FOLDER/slurm.conf && sinfo
#   tests/cluster/slurm.sh stop FOLDER
# It needs root. Four CPUs are declared, whatever the machine has.
set -eu

action=${1:?start or stop}
folder=$(realpath -m "${2:?a folder}")
host=$(hostname -s)

stop() {
    for name in slurmd slurmctld munged; do
        if [ -f "$folder/$name.pid" ]; then kill "$(cat "$folder/$name.pid")" 2>/dev/null || true; fi
    done
}

start() {
    mkdir -p "$folder/state" "$folder/spool"
    # munge refuses folders that others may write to.
    chmod 755 "$folder"
    umask 077
    dd if=/dev/urandom of="$folder/munge.key" bs=1024 count=1 status=none
    umask 022
    munged --force --key-file "$folder/munge.key" --socket "$folder/munge.socket" --pid-file "$folder/munged.pid" \
        --log-file "$folder/munged.log" --seed-file "$folder/munged.seed"
    cat > "$folder/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmctldPort=26817
SlurmdPort=26818
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
SlurmdSpoolDir=$folder/spool
StateSaveLocation=$folder/state
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
KillWait=10
SlurmdParameters=config_overrides
NodeName=$host CPUs=4 State=UNKNOWN
PartitionName=test Nodes=$host Default=YES MaxTime=120 State=UP
CONF
    export SLURM_CONF="$folder/slurm.conf"
    slurmctld
    slurmd
    for _ in $(seq 60); do
        if [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ]; then return; fi
        sleep 1
    done
    echo "the node does not become idle:" >&2
    tail -n 20 "$folder/slurmctld.log" "$folder/slurmd.log" >&2
    stop
    exit 1
}

"$action"
