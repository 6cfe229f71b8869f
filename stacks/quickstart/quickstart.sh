#!/usr/bin/env bash
# A whole fleet on this machine, and a chat with it: every step makes ready what is absent and leaves what is there.
#   quickstart.sh         up
#   quickstart.sh down    takes away what runs; volumes, database and key stay
# shellcheck source=SCRIPTDIR/prelude.sh
. "$(dirname "${BASH_SOURCE[0]}")/prelude.sh"

cd "$root"
stack=jarvis
agent=jarvis-main
roster=stacks/jarvis.yml
stub=http://mosaic-stub-llm:11434
user=demo
bin=.venv/bin
[ -x "$bin/mosaic" ] || bin=$(dirname "$(command -v mosaic || echo .venv/bin/mosaic)")

mosaic() { "$bin/mosaic" --no-input "$@"; }

# step NAME COMMAND…: one line for what it printed; its own errors come first where it fails.
step() {
  doing=$1
  local out
  out=$("${@:2}")
  printf ' ✓ %-18s %s\n' "$doing" "$(printf '%s' "${out:-done}" | tr '\n' ' ' | tr -s ' ')"
}

told_where() {
  local code=$?
  [ "$code" = 0 ] || say "stopped at: $doing. The same command goes on from there"
}

# What a command says is kept in a variable first: as a word of case, for, test or another command its failure is lost.

# --- the steps ---------------------------------------------------------------------------------------------------------

# use_image REF: the setting follows the image found, unless somebody chose another.
use_image() {
  local now
  now=$(mosaic config get fleet.image)
  case $now in
    "$1") printf '%s' "$1" ;;
    ghcr.io/openclaw/openclaw:* | mosaic-openclaw:*) quietly mosaic config set fleet.image "$1" && printf '%s, now the setting fleet.image' "$1" ;;
    *) printf '%s, as the setting fleet.image says' "$now" ;;
  esac
}

import_roster() {
  local there
  there=$(mosaic agent list -q)
  # Not a pipe: grep leaves at its first match, and the writer would be told that its reader left.
  if grep -qx "$agent" <<<"$there"; then
    echo "unchanged"
  else
    quietly mosaic agent import "$roster"
    echo "imported $roster"
  fi
}

# whose PROVIDER ADDRESS: stub, untouched (as the roster made it, no key), or own: then nothing here touches it.
whose() {
  local shown
  shown=$(mosaic provider show "$1" --json)
  "$bin/python" -c '
import json, sys, yaml
name, stub, roster = sys.argv[1:]
row = json.load(sys.stdin)["provider"]
with open(roster) as file:
    listed = yaml.safe_load(file)["providers"][name].get("base_url")
untouched = not row["has_key"] and row["base_url"] == listed
print("stub" if row["base_url"] == stub else "untouched" if untouched else "own")
' "$1" "$2" "$roster" <<<"$shown"
}

# point PROVIDER ADDRESS [KEY]
point() {
  local made_by
  made_by=$(whose "$1" "$2")
  case $made_by in
    stub) echo "unchanged: the stub LLM" ;;
    own) echo "unchanged: your own" ;;
    untouched)
      local key=()
      [ -z "${3:-}" ] || key=(--api-key-stdin)
      printf '%s' "${3:-}" | quietly mosaic provider set "$1" --base-url "$2" "${key[@]}" --no-test
      echo "now asks the stub LLM"
      ;;
    *) fail "nobody can tell whose provider $1 is" "mosaic provider show $1" ;;
  esac
}

# allowed: what egress.allow says, with nothing but commas in between.
allowed() {
  local now
  now=$(mosaic config get egress.allow)
  printf '%s' "${now// /}"
}

# open_to ADDRESS:PORT: users' gateways reach nothing of the host that the packet filter was not told of.
open_to() {
  local now
  now=$(allowed)
  case ,$now, in
    *",$1,"*) echo "unchanged: $1" ;;
    *)
      quietly mosaic config set egress.allow "${now:+$now,}$1"
      echo "open to $1"
      ;;
  esac
  quietly mosaic init
}

# add_user STUB_ADDRESS: a user with a provider of their own; what was changed since stays.
add_user() {
  local url=http://$1/v1 model
  model=$(chosen_model)
  if [ -n "$model" ]; then
    echo "unchanged: $user"
    return
  fi
  quietly mosaic user add "$user" --email "$user@example.com" --if-not-exists
  printf "%s" "a-made-up-key-of-the-demo-user" | quietly mosaic provider add stub --user "$user" --if-not-exists \
    --type custom --base-url "$url" --api-key-stdin --model glm-5
  quietly mosaic user set "$user" --model stub/glm-5
  echo "$user, whose provider is the stub LLM on this host"
}

chosen_model() {
  local shown code=0
  shown=$(mosaic user show "$user" --json 2>/dev/null) || code=$?
  # 4: there is no such user yet.
  [ "$code" != 4 ] || return 0
  [ "$code" = 0 ] || fail "nobody can tell what model $user has" "mosaic user show $user"
  "$bin/python" -c 'import json, sys; print(json.load(sys.stdin)["preferences"]["primary_model"] or "")' <<<"$shown"
}

up() {
  local ref address network
  trap told_where EXIT
  step docker "$here/docker.sh"
  doing="mosaic init"
  # Its advice on what to do next is for those who stop there.
  { mosaic init --create-network 2>&1 >&3 | sed '/^next:/d' >&2; } 3>&1
  doing="the OpenClaw image"
  ref=$("$here/image.sh")
  step image use_image "$ref"
  network=$(mosaic config get fleet.network)
  step "stub llm" "$here/stub.sh" up "$ref" "$network"
  step roster import_roster
  step "provider zai" point zai "$stub/api/paas/v4" made-up-key-for-the-stub-llm
  step "provider ollama" point ollama "$stub"
  doing="mosaic fleet deploy"
  mosaic fleet deploy --stack "$stack"
  doing="mosaic fleet status"
  mosaic fleet status --stack "$stack"
  doing="mosaic fleet ask"
  printf '\n$ mosaic fleet ask %s "Who are you?"\n' "$agent"
  mosaic fleet ask "$agent" "Who are you?"
  printf '\n'
  doing="the demo user's gateway"
  address=$("$here/stub.sh" host-up "$ref")
  step egress.allow open_to "$address"
  step user add_user "$address"
  mosaic gateway start "$user"
  printf '\n$ # the demo user asks: Who are you?\n'
  "$bin/python" "$here/ask_user.py" "$user" "Who are you?"
  ending
}

ending() {
  cat <<END

Four agents run on Docker Swarm, and beside them the gateway of one user, in a container and behind walls of its own.
All answer by a stub LLM, which makes a nonce for each request.
  the command      . .venv/bin/activate, then for instance: mosaic fleet status
  a real key       mosaic provider set zai --base-url "" --api-key-stdin < key
                   mosaic provider set ollama --base-url http://YOUR-OLLAMA:11434 --no-test
                   mosaic fleet deploy
  take it away     make down
END
}

# --- the way back --------------------------------------------------------------------------------------------------------

down() {
  trap told_where EXIT
  doing="looking around"
  if [ ! -x "$bin/mosaic" ]; then
    say "nothing to take down: there is no virtual environment"
    return
  fi
  if has docker && timeout 15 docker version >/dev/null 2>&1; then
    doing="mosaic gateway stop"
    stop_gateways
    doing="mosaic fleet rm"
    remove_fleet
    ! has_database || step egress.allow close_to_stub
    step "stub llm" "$here/stub.sh" down
  else
    say "no Docker daemon answers: nothing runs on it"
  fi
  ! has_database || step database mosaic db stop
  step docker "$here/docker.sh" stop
  kept
}

has_database() { [ -e "$data_dir/pg" ] || [ -n "${DATABASE_URL:-}${DATABASE_URL_FILE:-}" ]; }

stop_gateways() {
  local name names
  has_database || return 0
  names=$(mosaic gateway list -q)
  for name in $names; do
    step "gateway" mosaic gateway stop "$name" --timeout 20 --force
  done
}

# close_to_stub: the entry of open_to alone; whatever else is allowed stays.
close_to_stub() {
  local address now left
  address=$("$here/stub.sh" host-address)
  now=$(allowed)
  left=,$now,
  left=${left//",$address,"/,}
  left=${left#,}
  left=${left%,}
  if [ -z "$address" ] || [ "$left" = "$now" ]; then
    echo "unchanged"
    return
  fi
  if [ -n "$left" ]; then
    quietly mosaic config set egress.allow "$left"
  else
    quietly mosaic config unset egress.allow
  fi
  echo "no longer open to $address"
}

remove_fleet() {
  local said code=0
  has_database || return 0
  say "   taking stack $stack off the Swarm"
  said=$(mosaic fleet rm --stack "$stack" --yes 2>&1) || code=$?
  # 4: there is no such stack, so there is nothing to remove.
  [ "$code" != 4 ] || return 0
  printf '%s\n' "$said"
  return "$code"
}

kept() {
  local env_file volumes
  env_file=$(xdg XDG_CONFIG_HOME /etc "$HOME/.config")/env
  volumes="docker volume rm \$(docker volume ls -q --filter label=com.mosaic.stack=$stack)"
  # A daemon of the quickstart keeps them in the folder that goes next.
  [ ! -e "$data_dir/docker" ] || volumes="in the folder of the next line"
  cat <<END

Kept: the agents' volumes, the database, the key and the image. To delete them too, for good:
  volumes          $volumes
  database         rm -rf $data_dir
  key              rm $env_file
  image            rm -rf $cache_dir
END
}

case ${1:-up} in
  up | down) "${1:-up}" ;;
  *) fail "unknown word: $1" "quickstart.sh [down]" ;;
esac
