#!/usr/bin/env bash
# Makes an OpenClaw image present and prints its name: the official one if it is here or can be pulled, else one built
# from the npm package.
#   image.sh [VERSION]         prints the image's name
#   image.sh --tar [VERSION]   prints the path of the tar it is imported from, for another Docker daemon
# shellcheck source=SCRIPTDIR/prelude.sh
. "$(dirname "${BASH_SOURCE[0]}")/prelude.sh"
# shellcheck source=SCRIPTDIR/openclaw-image.sh
. "$(dirname "${BASH_SOURCE[0]}")/openclaw-image.sh"

only_tar=
if [ "${1:-}" = --tar ]; then only_tar=yes && shift; fi
version=${1:-2026.9.6}
official=ghcr.io/openclaw/openclaw:$version
built=mosaic-openclaw:$version
recipe=$suite-$(sha256sum "$here/openclaw-image.sh" | cut -c1-8)
tar=$cache_dir/mosaic-openclaw-$version-$recipe.tar
build=

label() { docker image inspect --format '{{index .Config.Labels "com.mosaic.recipe"}}' "$1" 2>/dev/null; }

pull() {
  # Whether a registry answers at all is known in seconds; only then is the long wait worth it.
  timeout 20 docker manifest inspect "$official" >/dev/null 2>&1 || return 1
  say "   pulling $official"
  quietly docker pull --quiet "$official"
}

# clean_up: ends both halves whole. A half is its process group, not its first process: a signal that meets a shell
# between fork and exec is lost, and what it was about to start would live on, holding the lock.
clean_up() {
  local halves half alive round
  halves=$(jobs -p)
  for round in $(seq 100); do
    alive=
    for half in $halves; do if kill -TERM -- "-$half" 2>/dev/null; then alive=yes; fi; done
    [ -n "$alive" ] || break
    [ "$round" != 100 ] || for half in $halves; do kill -KILL -- "-$half" 2>/dev/null || true; done
    sleep 0.1
  done
  wait
  [ -z "$build" ] || rm -rf "$build"
}

# finish JOB PART: waits for half of the build, shows its log if it failed.
finish() {
  wait "$1" && return
  cat "$build/$2.log" >&2
  fail "the $2 part of the OpenClaw image could not be made" "read the lines above, then run the same command again"
}

make_tar() {
  mkdir -p "$cache_dir"
  exec 9>"$cache_dir/image.lock"
  flock --nonblock 9 || { say "   waiting for another build of the image"; flock 9; }
  [ ! -s "$tar" ] || return 0
  install_tools
  rm -rf "$cache_dir"/.build.*
  build=$(mktemp -d "$cache_dir/.build.XXXXXX")
  trap clean_up EXIT
  trap 'exit 130' INT TERM
  say "   building $built from Debian and npm packages (about a minute)"
  # Job control gives each half a process group of its own, so that an interrupted build leaves nothing running.
  set -m
  make_rootfs "$build/image.tar" >"$build/rootfs.log" 2>&1 &
  local base=$!
  make_npm_tree "$build" "$version" >"$build/npm.log" 2>&1 &
  local tree=$!
  set +m
  finish "$base" rootfs
  finish "$tree" npm
  tar --append --file="$build/image.tar" --owner=0 --group=0 --numeric-owner --directory="$build" opt/openclaw
  rm -f "$cache_dir/mosaic-openclaw-$version"-*.tar
  mv "$build/image.tar" "$tar"
}

install_tools() {
  local missing=()
  has mmdebstrap || missing+=(mmdebstrap)
  has npm || missing+=(npm)
  # Node from npm is linked to it, Debian's own is not.
  grep -qF libatomic.so.1 <<<"$(/sbin/ldconfig -p)" || missing+=(libatomic1)
  [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
}

import() {
  say "   importing $built"
  quietly import_image "$tar" "$built" "$version" "$recipe" || fail "docker could not import $tar"
}

image() {
  if docker image inspect "$official" >/dev/null 2>&1; then printf '%s\n' "$official" && return; fi
  if [ "$(label "$built")" = "$recipe" ]; then printf '%s\n' "$built" && return; fi
  if [ ! -s "$tar" ]; then
    if pull; then printf '%s\n' "$official" && return; fi
    make_tar
  fi
  import
  printf '%s\n' "$built"
}

if [ -n "$only_tar" ]; then
  make_tar
  printf '%s\n' "$tar"
else
  image
fi
