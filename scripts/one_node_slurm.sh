#!/usr/bin/env bash
# A Slurm of one node on this machine, to try `bytegolf sweep` on: two CPUs, no accounting, no systemd, no cgroups.
#
#   scripts/one_node_slurm.sh start [FOLDER]    installs Debian's packages where they are missing, starts, waits for an idle node
#   scripts/one_node_slurm.sh status [FOLDER]   says whether its node takes jobs (exit status 0) or not (1)
#   scripts/one_node_slurm.sh stop [FOLDER]     ends its jobs and daemons, removes FOLDER
#
# As root. FOLDER (/tmp/bytegolf-slurm) gets key, configuration, state and logs; nothing outside it is written but the packages.
# Ports are free ones, so that several may run side by side. Slurm's commands find it by the line that start prints:
#
#   export SLURM_CONF=FOLDER/slurm.conf
#
# Where it is not available (not root, no apt-get) start prints "skipped: REASON" and ends with status 77.
set -euo pipefail

PACKAGES="slurmctld slurmd slurm-client munge"
WAIT_S=40   # for each daemon, and for the node

verb=${1:-}
folder=$(realpath -m "${2:-/tmp/bytegolf-slurm}")
conf=$folder/slurm.conf

say() { printf '[slurm] %s\n' "$1" >&2; }
skipped() { printf 'skipped: %s\n' "$1"; exit 77; }
fail() { printf 'one_node_slurm.sh: %s\n' "$1" >&2; exit 1; }

# until_true COMMAND...: tries it until it succeeds or the time is over.
until_true() {
  local end=$((SECONDS + WAIT_S))
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.2
  done
}

ours() { grep -qxF "StateSaveLocation=$folder/state" "$conf" 2>/dev/null; }
idle() { ours && SLURM_CONF=$conf timeout 10 sinfo --noheader --format=%T 2>/dev/null | grep -qE '^(idle|mixed|allocated)$'; }
controller_answers() { SLURM_CONF=$conf timeout 10 scontrol ping | grep -q UP; }
munged_answers() { timeout 10 munge --no-input --socket="$folder/munge.socket"; }
no_jobs() { [ -z "$(SLURM_CONF=$conf timeout 10 squeue --noheader)" ]; }

# Number of a daemon, from the file that it writes; a number that now belongs to another program is not ours.
daemon_pid() {
  local pid
  pid=$(cat "$folder/$1.pid" 2>/dev/null) && [ -n "$pid" ] && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$1" ] && echo "$pid"
}
gone() { ! daemon_pid "$1"; }

install_packages() {
  local program missing=0 log=$folder/apt.log apt=(timeout 300 apt-get -o DPkg::Lock::Timeout=120)
  for program in slurmctld slurmd sbatch munged; do command -v $program >/dev/null || missing=1; done
  [ $missing = 1 ] || return 0
  command -v apt-get >/dev/null || skipped "no Slurm here, and no apt-get to install it with"
  say "installing $PACKAGES"
  export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1   # at runlevel 1 no package starts its service
  # shellcheck disable=SC2086
  { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends $PACKAGES; } >"$log" 2>&1 </dev/null ||
    skipped "apt-get could not install $PACKAGES ($(grep -E '^E:' "$log" | tail -n 1))"
}

free_ports() {
  python3 -c '
import socket
held = [socket.socket() for _ in range(2)]
for one in held:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in held))'
}

configure() {
  local host ports
  host=$(hostname -s)
  read -r -a ports <<<"$(free_ports)"
  mkdir -p "$folder/state" "$folder/spool"
  (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
  # config_overrides: two CPUs, whatever the machine has. linuxproc: children are found by parentage, without cgroups.
  cat >"$conf" <<CONF
ClusterName=bytegolf
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmdPort=${ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
KillWait=5
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=60 State=UP
CONF
}

# daemon NAME WORDS...: starts one; it goes into the background by itself once it is ready.
daemon() {
  local log=$folder/start.log
  SLURM_CONF=$conf timeout $WAIT_S "$@" >"$log" 2>&1 </dev/null || give_up "$1: $(tail -n 1 "$log")"
}
give_up() {
  local name
  for name in munged slurmctld slurmd; do tail -n 5 "$folder/$name.log" >&2 2>/dev/null || true; done
  stop_daemons
  fail "$1"
}

start() {
  [ "$(id -u)" = 0 ] || skipped "the daemons of Slurm are started as root"
  if idle; then
    say "runs already"
    echo "export SLURM_CONF=$conf"
    return
  fi
  if ours; then
    stop_daemons
  elif [ -n "$(ls -A "$folder" 2>/dev/null)" ]; then
    fail "$folder holds other things"
  fi
  mkdir -p "$folder"
  [ -O "$folder" ] || fail "$folder belongs to another user"
  chmod 755 "$folder"   # every client must reach the socket below
  install_packages
  configure
  daemon munged --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munge.seed" --num-threads=2
  until_true munged_answers || give_up "munged does not answer"
  daemon slurmctld
  until_true controller_answers || give_up "slurmctld does not answer"
  daemon slurmd
  until_true idle || give_up "the node does not become idle: $(SLURM_CONF=$conf timeout 10 sinfo --noheader --format='%T, %E')"
  say "one node with two CPUs is idle"
  echo "export SLURM_CONF=$conf"
}

stop_daemons() {
  local name pid
  if daemon_pid slurmctld >/dev/null; then
    SLURM_CONF=$conf timeout 20 scancel --quiet --partition=main 2>/dev/null || true
    until_true no_jobs || say "some jobs do not end"
  fi
  for name in slurmd slurmctld munged; do
    pid=$(daemon_pid $name) || continue
    kill -TERM "$pid" 2>/dev/null || true
    if ! until_true gone $name; then
      say "$name does not end; killed"
      kill -KILL "$pid" 2>/dev/null || true
    fi
  done
}

case $verb in
start) start ;;
status)
  if idle; then
    SLURM_CONF=$conf sinfo
    echo "export SLURM_CONF=$conf"
  else
    echo "no Slurm in $folder takes jobs"
    exit 1
  fi
  ;;
stop)
  if ours; then
    stop_daemons
    rm -rf "$folder"
    say "stopped"
  else
    say "no Slurm runs in $folder"
  fi
  ;;
*) fail "start, status or stop? (the head of this file says more)" ;;
esac
