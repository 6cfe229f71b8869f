#!/usr/bin/env bash
# Runs the stub LLM as Swarm services: one beside the fleet, one on the host for users' gateways.
#   stub.sh up IMAGE NETWORK      starts the fleet's, or leaves it as it is when nothing about it changed
#   stub.sh host-up IMAGE         the host's, likewise; prints the address it listens at
#   stub.sh host-address          prints that address, or nothing where this Docker has no Swarm
#   stub.sh down                  removes both, if they are this quickstart's
# shellcheck source=SCRIPTDIR/prelude.sh
. "$(dirname "${BASH_SOURCE[0]}")/prelude.sh"

name=mosaic-stub-llm
host_name=mosaic-host-stub-llm
host=0.0.0.0
port=11434
host_port=11435
script=$here/stub-llm.mjs
owner=$(short "$data_dir")
label=com.mosaic.quickstart

label_of() { docker service inspect --format "{{index .Spec.Labels \"$1\"}}" "$name" 2>/dev/null || true; }
exists() { docker service inspect "$name" >/dev/null 2>&1; }

refuse_another() {
  ! exists || [ "$(label_of $label)" = "$owner" ] ||
    fail "the service $name is not of this quickstart" "take it away where it was made: make down"
}

up() {
  local image=$1 network=$2 config spec said=unchanged
  refuse_another
  config=$name-$(sha256sum "$script" | cut -c1-12)
  spec=$(short "$config $image $network $host:$port $(sha256sum "${BASH_SOURCE[0]}")")
  if [ "$(label_of $label.spec)" != "$spec" ]; then
    remove
    create "$image" "$network" "$config" "$spec"
    said="started on $network"
  fi
  wait_until_healthy
  echo "$said"
}

# The Swarm's own bridge is there on every node; its address is this host's alone, so nothing outside reaches the stub.
bridge() { docker network inspect --format '{{(index .IPAM.Config 0).Gateway}}' docker_gwbridge; }

host-address() {
  local address
  address=$(bridge 2>/dev/null) || return 0
  echo "$address:$host_port"
}

host-up() {
  name=$host_name
  host=$(bridge)
  port=$host_port
  up "$1" host >/dev/null
  echo "$host:$port"
}

probe() {
  local at=http://$1:$port/healthz
  printf 'if command -v curl >/dev/null; then curl -fsS -o /dev/null %s; else
node -e "fetch(\"%s\").then(r=>process.exit(r.ok?0:1),()=>process.exit(1))"; fi' "$at" "$at"
}

create() {
  docker config inspect "$3" >/dev/null 2>&1 || quietly docker config create --label "$label=$owner" "$3" "$script"
  quietly docker service create --detach --quiet --no-resolve-image --name "$name" \
    --label "$label=$owner" --label "$label.spec=$4" --network "$2" --endpoint-mode dnsrr \
    --config "source=$3,target=/stub-llm.mjs,mode=0444" --env "HOST=$host" --env "PORT=$port" \
    --user 1000:1000 --read-only --cap-drop ALL --limit-memory 256M --limit-pids 64 --stop-grace-period 2s \
    --restart-delay 2s --log-driver json-file --log-opt max-size=1m \
    --health-cmd "$(probe "${host/0.0.0.0/127.0.0.1}")" \
    --health-interval 3s --health-timeout 5s --health-retries 5 --health-start-period 30s \
    "$1" node /stub-llm.mjs
}

wait_until_healthy() {
  for _ in $(seq 240); do
    [ "$(docker service ls --filter "name=$name" --format '{{.Replicas}}')" != 1/1 ] || return 0
    sleep 0.5
  done
  docker service ps --no-trunc "$name" >&2
  docker service logs --tail 20 "$name" >&2 || true
  fail "the stub LLM did not become healthy within two minutes" "docker service logs $name"
}

remove() {
  local configs
  if exists && [ "$(label_of $label)" = "$owner" ]; then quietly docker service rm "$name"; fi
  configs=$(docker config ls --quiet --filter "label=$label=$owner" --filter "name=$name-")
  # shellcheck disable=SC2086 # one word each
  [ -z "$configs" ] || quietly docker config rm $configs
}

down() {
  remove
  name=$host_name
  remove
  echo "removed"
}

"$@"
