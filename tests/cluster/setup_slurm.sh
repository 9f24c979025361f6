#!/usr/bin/env bash
# A real one-node SLURM on a Debian test machine, without systemd: two partitions, "preemptible" and the higher "urgent",
# whose jobs requeue the other's, and two GPUs that are character devices and nothing more. Needs root. Says nothing
# and does nothing where it runs already.
set -euo pipefail

if command -v sinfo > /dev/null && timeout 10 sinfo -h > /dev/null 2>&1; then exit 0; fi
[ "$(id -u)" = 0 ] || { echo "setup_slurm.sh: needs root" >&2; exit 1; }
[ -f /etc/debian_version ] || { echo "setup_slurm.sh: knows Debian only" >&2; exit 1; }

if ! command -v slurmd munged > /dev/null; then
    # The packages start no service of their own: they come without a configuration that it could run with.
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    apt-get -qq install -y --no-install-recommends munge slurm-wlm > /dev/null
fi

name=$(hostname -s)
mkdir -p /etc/slurm /run/munge /var/log/munge /var/lib/munge /var/spool/slurmctld /var/spool/slurmd
chown munge: /run/munge /var/log/munge /var/lib/munge
[ -s /etc/munge/munge.key ] || { mkdir -p /etc/munge; head -c 1024 /dev/urandom > /etc/munge/munge.key; }
chown -R munge: /etc/munge
chmod 400 /etc/munge/munge.key

for gpu in 0 1; do
    [ -e "/dev/testgpu$gpu" ] || mknod "/dev/testgpu$gpu" c 1 3
done
echo 'Name=gpu File=/dev/testgpu[0-1]' > /etc/slurm/gres.conf
memory=$(($(awk '/^MemTotal/ {print $2}' /proc/meminfo) / 1024 - 512))
cat > /etc/slurm/slurm.conf <<CONFIGURATION
ClusterName=test
SlurmctldHost=$name
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
AccountingStorageType=accounting_storage/none
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldLogFile=/var/log/slurmctld.log
SlurmdLogFile=/var/log/slurmd.log
ReturnToService=2
MinJobAge=300
KillWait=5
NodeName=$name CPUs=$(nproc) RealMemory=$memory Gres=gpu:2 State=UNKNOWN
PartitionName=preemptible Nodes=$name Default=YES PriorityTier=1 MaxTime=INFINITE State=UP
PartitionName=urgent Nodes=$name PriorityTier=10 MaxTime=INFINITE State=UP
CONFIGURATION

pidof munged > /dev/null || runuser -u munge -- munged
pidof slurmctld > /dev/null || slurmctld
pidof slurmd > /dev/null || slurmd
for _ in $(seq 60); do
    if sinfo -h -t idle,mixed,allocated -o %D 2> /dev/null | grep -q 1; then exit 0; fi
    sleep 1
done
echo "setup_slurm.sh: the node did not come up:" >&2
tail -n 20 /var/log/slurmctld.log /var/log/slurmd.log >&2
exit 1
