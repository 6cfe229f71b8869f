#!/usr/bin/env bash
# Runs pytest where nothing of the machine can help or hinder it, and nothing leaves it:
#   tests/sandbox.sh [PYTEST ARGUMENT]…
# As root: a network namespace without uplink, process and mount namespaces, an empty /run, fresh folders, and in them a
# Docker daemon of its own with Swarm and the OpenClaw image. What needs the world is made before, outside. All of it is
# gone afterwards, whether the tests passed, failed or were interrupted. Otherwise: with the daemon that is found.
# shellcheck source=SCRIPTDIR/../stacks/quickstart/prelude.sh
. "$(dirname "${BASH_SOURCE[0]}")/../stacks/quickstart/prelude.sh"

cd "$root"
ours=(unset DATABASE_URL DATABASE_URL_FILE MOSAIC_SECRET_KEY MOSAIC_SECRET_KEY_FILE)
theirs=(unset DOCKER_HOST DOCKER_CONTEXT DOCKER_CONFIG VIRTUAL_ENV PYTHONPATH MAKEFLAGS MFLAGS MAKELEVEL ARGS)

phase() {
  say "   sandbox: $1, $((SECONDS - since)) s"
  since=$SECONDS
}

# --- outside -----------------------------------------------------------------------------------------------------------

outside() {
  since=$SECONDS
  "$here/docker.sh" packages
  has ip || apt_install iproute2
  local tar job code=0
  tar=$("$here/image.sh" --tar)
  phase "packages and image"
  sweep
  place=$(mktemp -d "${TMPDIR:-/var/tmp}/mosaic-test.XXXXXX")
  trap 'rm -rf "$place"' EXIT
  exec 8>"$place/lock"
  flock 8
  # Job control gives the namespaces a process group of their own: a signal reaches pytest and all beside it once.
  set -m
  setpriv --pdeathsig KILL unshare --net --mount --pid --fork --kill-child --mount-proc \
    "${BASH_SOURCE[0]}" --inside "$place" "$tar" "$@" 8>&- &
  job=$!
  set +m
  trap 'kill -INT -- "-$job" 2>/dev/null' INT
  trap 'kill -TERM -- "-$job" 2>/dev/null' TERM HUP
  wait "$job" || code=$?
  while kill -0 "$job" 2>/dev/null; do
    code=0
    wait "$job" || code=$?
  done
  exit "$code"
}

# sweep: what a killed run left behind; a living one holds its lock.
sweep() {
  local left
  for left in "${TMPDIR:-/var/tmp}"/mosaic-test.??????; do
    if [ -e "$left/lock" ] && flock --nonblock "$left/lock" true; then rm -rf "$left"; fi
  done
}

# --- inside: process 1 of its namespace; when it ends, the kernel ends all that is left ------------------------------------

inside() {
  place=$1
  local tar=$2 code=0
  shift 2
  since=$SECONDS
  trap 'true' INT TERM
  fresh_ground
  XDG_DATA_HOME=$place "$here/docker.sh" >&2
  phase daemon
  MOSAIC_TEST_IMAGE=$(XDG_CACHE_HOME=${tar%/mosaic/*} "$here/image.sh")
  export MOSAIC_TEST_IMAGE MOSAIC_TEST_PROVISIONED=1 DOCKER_HOST=unix:///var/run/docker.sock
  phase image
  run_tests "$@" || code=$?
  take_down
  phase "taken down"
  exit "$code"
}

fresh_ground() {
  "${ours[@]}"
  "${theirs[@]}"
  chmod 755 "$place"
  # The machine's sockets lie below /run: here there is no way to them, and Docker's default socket is free.
  mount -t tmpfs -o mode=0755 tmpfs /run
  mkdir -p /run/lock "$place/home"
  mkdir -m 1777 "$place/tmp"
  ip link set lo up
  export HOME=$place/home TMPDIR=$place/tmp
  export XDG_CONFIG_HOME=$place/config XDG_DATA_HOME=$place/data XDG_CACHE_HOME=$place/cache XDG_STATE_HOME=$place/state
  unset XDG_RUNTIME_DIR
}

# Most tests wait, for Swarm above all: four files at a time. Those that change the node run by themselves afterwards.
run_tests() {
  local code=0 alone=0
  .venv/bin/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder -m 'not alone' "$@" || code=$?
  phase tests
  # 2: interrupted; above 128: by a signal.
  if [ "$code" = 2 ] || [ "$code" -gt 128 ]; then return "$code"; fi
  .venv/bin/python -m pytest -m alone "$@" || alone=$?
  phase "tests that run alone"
  # 5: this half had no test; that is no failure unless neither had one.
  if [ "$code" = 0 ] && [ "$alone" = 5 ]; then return 0; fi
  if [ "$code" = 5 ] || [ "$code" = 0 ]; then return "$alone"; fi
  return "$code"
}

# Leaving the Swarm removes its containers at once; otherwise the daemon would grant each its long stop grace.
take_down() {
  timeout 60 docker swarm leave --force >/dev/null 2>&1 || true
  docker ps --quiet | timeout 60 xargs --no-run-if-empty docker kill >/dev/null 2>&1 || true
  DOCKER_HOST='' XDG_DATA_HOME=$place "$here/docker.sh" stop >&2 || true
}

if [ "${1:-}" = --inside ]; then
  shift
  inside "$@"
elif is_root; then
  outside "$@"
else
  say "not root: using the Docker daemon that is found; tests of walls are skipped"
  exec .venv/bin/python -m pytest "$@"
fi
