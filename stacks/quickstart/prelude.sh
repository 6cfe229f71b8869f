# shellcheck shell=bash disable=SC2034
# Sourced by the scripts beside it: how they speak and fail, where they keep things, how they install packages.
set -euo pipefail
shopt -s inherit_errexit
exec </dev/null # nothing here asks

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=${here%/stacks/quickstart}

is_root() { [ "$(id -u)" = 0 ]; }
has() { command -v "$1" >/dev/null 2>&1; }

say() { printf '%s\n' "$*" >&2; }

# fail MESSAGE [HINT]: the two lines that the mosaic command prints too, then the end of the script.
fail() {
  printf 'error: %s\n' "$1" >&2
  [ -z "${2:-}" ] || printf 'hint:  %s\n' "$2" >&2
  exit 7
}

# quietly COMMAND…: nothing on success, all it said on failure. In a shell function it would switch -e off.
quietly() {
  local log code=0
  log=$(mktemp)
  "$@" >"$log" 2>&1 || code=$?
  [ "$code" = 0 ] || cat "$log" >&2
  rm -f "$log"
  return "$code"
}

# xdg VARIABLE ROOT_DEFAULT OTHER_DEFAULT: the folder of Mosaic; as its specification says, a relative path is ignored.
xdg() {
  local given=${!1:-}
  case $given in
    /*) ;;
    *) if is_root; then given=$2; else given=$3; fi ;;
  esac
  printf '%s/mosaic' "${given%/}"
}

data_dir=$(xdg XDG_DATA_HOME /var/lib "$HOME/.local/share")
cache_dir=$(xdg XDG_CACHE_HOME /var/cache "$HOME/.cache")

# short TEXT: eight hex digits that stand for it.
short() { printf '%s' "$1" | sha256sum | cut -c1-8; }

# apt_install PACKAGE…: with fresh package lists only where the known ones do not do.
apt_install() {
  has apt-get || fail "missing on this machine: $*" "install it with this system's package manager, then run the same command again"
  is_root || fail "missing on this machine: $*" "sudo apt-get install -y --no-install-recommends $*"
  say "   installing $*"
  # Without systemd a package would start its service by the rules of the runlevel: in this one it starts none.
  local apt=(env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120)
  "${apt[@]}" install --no-install-recommends "$@" >/dev/null 2>&1 && return
  quietly dpkg --configure -a || true
  quietly "${apt[@]}" update || say "   apt-get update failed, trying with the lists that are here"
  quietly "${apt[@]}" install --no-install-recommends "$@" || fail "apt could not install $*" "apt-get install $*"
}
