#!/usr/bin/env bash
# Makes Docker and its Swarm ready; what is ready already stays as it is.
#   docker.sh            packages, daemon, Swarm
#   docker.sh packages   only Debian's docker.io, where it is absent
#   docker.sh stop       stops the daemon that this script started, and no other; its data stays
# A DOCKER_HOST or Docker context that somebody chose is obeyed: it answers, or this script ends.
# shellcheck source=SCRIPTDIR/prelude.sh
. "$(dirname "${BASH_SOURCE[0]}")/prelude.sh"

state=$data_dir/docker
pid_file=$state/dockerd.pid
log=$state/dockerd.log
socket=/var/run/docker.sock
# Below /run: what is in it must not outlive a reboot, and a socket's path ends at 107 bytes.
exec_root=/run/mosaic/docker-$(short "$state")
started=

answers() { timeout 15 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }
chosen() { [ -n "${DOCKER_HOST:-}" ] || { has docker && [ "$(endpoint)" != "unix://$socket" ]; }; }
endpoint() { docker context inspect --format '{{.Endpoints.docker.Host}}' 2>/dev/null || echo "an unusable Docker context"; }
has_unit() { [ -d /run/systemd/system ] && systemctl cat docker.service >/dev/null 2>&1; }

# runs PID_FILE WORD: prints the process number in the file if that process lives and WORD is in its command line. A
# number alone may belong to another process by now; one that ended unseen by its parent has no command line.
runs() {
  local pid
  pid=$(cat "$1" 2>/dev/null) && [ -n "$pid" ] || return 1
  grep -qaF -- "$2" "/proc/$pid/cmdline" 2>/dev/null || return 1
  printf '%s' "$pid"
}
own_pid() { runs "$pid_file" "$pid_file"; }

packages() {
  if ! has docker || ! has dockerd; then apt_install docker.io; fi
  # Since Debian 13 the command is a package of its own.
  has docker || apt_install docker-cli
}

daemon() {
  ! answers || return 0
  ! chosen || fail "no Docker daemon answers on ${DOCKER_HOST:-$(endpoint)}" "start it, or unset DOCKER_HOST and DOCKER_CONTEXT to use this machine's own"
  [ ! -S "$socket" ] || [ -w "$socket" ] || fail "this user may not use $socket" "sudo usermod -aG docker $(id -un), then log in again"
  [ "$(uname)" = Linux ] || fail "no Docker daemon answers" "start Docker Desktop, then run the same command again"
  packages
  ! answers || return 0
  is_root || fail "no Docker daemon answers on $socket" "sudo systemctl start docker, or run this as root"
  if has_unit; then quietly systemctl start docker; else start; fi
  wait_until_it_answers
}

start() {
  mkdir -p "$state"
  # Else dockerd makes it, for root alone; the embedded database has its socket below it too.
  install -d -m 0755 /run/mosaic
  # Both files outlive a kill -9, and dockerd takes any process with such a number for its own.
  own_pid >/dev/null || rm -f "$pid_file"
  runs "$exec_root/containerd/containerd.pid" "$exec_root" >/dev/null || rm -f "$exec_root/containerd/containerd.pid"
  say "   starting dockerd (log: $log)"
  setsid dockerd --data-root "$state/data" --exec-root "$exec_root" --pidfile "$pid_file" --host "unix://$socket" \
    --no-new-privileges >>"$log" 2>&1 &
  started=$!
}

wait_until_it_answers() {
  for _ in $(seq 300); do
    ! answers || return 0
    [ -z "$started" ] || kill -0 "$started" 2>/dev/null || break
    sleep 0.2
  done
  if [ -z "$started" ]; then journalctl --no-pager -n 40 -u docker >&2 || true; else tail -n 40 "$log" >&2; fi
  fail "the Docker daemon did not start" "read the lines above"
}

swarm() {
  local node
  # A daemon that was started anew answers before its Swarm is there again.
  for _ in $(seq 300); do
    node=$(docker info --format '{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}')
    [[ $node == pending* ]] || break
    sleep 0.2
  done
  case $node in
    "active true") ;;
    "active false") fail "this Docker is a worker of its Swarm" "set DOCKER_HOST to a manager of it" ;;
    inactive*) quietly docker swarm init --advertise-addr 127.0.0.1 --listen-addr 127.0.0.1:2377 || fail "docker could not start a Swarm" ;;
    locked*) fail "the Swarm is locked" "docker swarm unlock" ;;
    *) fail "the Swarm's state is ${node% *}" "docker info" ;;
  esac
}

up() {
  if ! has docker; then
    [ -z "${DOCKER_HOST:-}" ] || fail "DOCKER_HOST is set, but there is no docker command" "install the docker command, or unset DOCKER_HOST"
    packages
  fi
  daemon
  swarm
  docker info --format '{{.ServerVersion}}, swarm {{.Swarm.LocalNodeState}}'
}

stop() {
  local pid
  pid=$(own_pid) || { echo "the daemon is not the quickstart's, or not running: left as it is"; return 0; }
  kill -TERM "$pid"
  for _ in $(seq 600); do
    own_pid >/dev/null || { echo "stopped the daemon that the quickstart had started"; return 0; }
    sleep 0.1
  done
  fail "dockerd (process $pid) did not stop within a minute" "tail $log"
}

case ${1:-up} in
  up | packages | stop) "${1:-up}" ;;
  *) fail "unknown word: $1" "docker.sh [packages|stop]" ;;
esac
