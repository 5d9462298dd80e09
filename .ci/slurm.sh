#!/usr/bin/env bash
# A real Slurm on one Debian machine, as root, for `make test-cluster`: a slurmd for each of five nodes, with a pretended GPU each.
#   .ci/slurm.sh start    start munged, slurmctld and the nodes; needs the packages slurm-wlm and munge
#   .ci/slurm.sh stop     end them
# Its files are in $SLURM_TEST, by default /run/slurm-test, and its configuration replaces that in /etc/slurm.
# Partitions: main (n1, n2); fragile (n3, n4), whose nodes a test kills; low and urgent (n5), where urgent jobs preempt.
set -euo pipefail
home=${SLURM_TEST:-/run/slurm-test}
host=$(hostname -s)
nodes="n1 n2 n3 n4 n5"

configure() {
    mkdir -p "$home/state" /etc/slurm /run/munge
    [ -s /etc/munge/munge.key ] || mungekey -c
    chown munge /run/munge /etc/munge/munge.key
    getent hosts "$host" >/dev/null || echo "127.0.0.1 $host" >>/etc/hosts
    [ -e "$home/gpu" ] || mknod "$home/gpu" c 195 0
    cat >/etc/slurm/slurm.conf <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
AuthType=auth/munge
SlurmUser=root
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool-%n
SlurmctldPidFile=$home/slurmctld.pid
SlurmdPidFile=$home/slurmd-%n.pid
SlurmctldLogFile=$home/slurmctld.log
SlurmdLogFile=$home/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=5,bf_interval=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
ReturnToService=2
KillWait=10
SlurmdTimeout=20
MailProg=/bin/true
SlurmdParameters=config_overrides
CONF
    : >/etc/slurm/gres.conf
    for node in $nodes; do
        echo "NodeName=$node NodeHostname=$host NodeAddr=127.0.0.1 Port=1700${node#n}" \
            "CPUs=8 RealMemory=8000 Gres=gpu:1 State=UNKNOWN" >>/etc/slurm/slurm.conf
        echo "NodeName=$node Name=gpu File=$home/gpu" >>/etc/slurm/gres.conf
    done
    cat >>/etc/slurm/slurm.conf <<CONF
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
PartitionName=fragile Nodes=n3,n4 MaxTime=INFINITE State=UP
PartitionName=low Nodes=n5 PriorityTier=1 MaxTime=INFINITE State=UP
PartitionName=urgent Nodes=n5 PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
CONF
}

start() {
    configure
    munge -n 2>/dev/null | unmunge >/dev/null 2>&1 || su -s /bin/bash munge -c munged
    slurmctld -c
    sleep 1
    for node in $nodes; do slurmd -N "$node"; done
    for _ in $(seq 30); do
        [ "$(sinfo -h -N -t idle -o '%N' 2>/dev/null | sort -u | wc -l)" = 5 ] && { sinfo; return; }
        sleep 1
    done
    sinfo -N -l
    return 1
}

stop() { # the controller last: nodes do not end before it has heard of their jobs
    scancel --user="$(id -un)" 2>/dev/null || true
    for _ in $(seq 15); do
        [ -z "$(squeue -h 2>/dev/null)" ] && break
        sleep 1
    done
    for daemon in $(printf 'slurmd-%s ' $nodes) slurmctld; do
        [ -s "$home/$daemon.pid" ] || continue
        pid=$(cat "$home/$daemon.pid")
        kill "$pid" 2>/dev/null && tail --pid="$pid" -f /dev/null
    done
    true
}

case ${1:-} in start) start ;; stop) stop ;; *)
    sed -n 2,6p "$0"
    exit 2
    ;;
esac
