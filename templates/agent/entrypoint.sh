#!/bin/sh
# Puts an OpenClaw gateway's config and secrets into memory, its personality into the workspace, and becomes the gateway.
#   sh -c "$(cat entrypoint.sh)" mosaic COMMAND…      given to the container as its command's text: no bind, no build
# The files come as a tar on standard input or, when MOSAIC_API_URL is set, from Mosaic's config endpoint:
#   MOSAIC_API_URL http://mosaic:4001      AGENT_ID the container's id      AGENT_TYPE user | system (default)
#   AGENT_TOKEN_FILE the container's token in a file (AGENT_TOKEN works, but shows in docker inspect)
#   MOSAIC_WAIT how many seconds to try or to wait, default 120      MOSAIC_RUN_DIR a tmpfs, default /run/mosaic
# Ends with a line on standard error and: 81 no place in memory · 82 nothing whole came on standard input ·
# 83 Mosaic does not answer · 84 Mosaic refuses the token · 85 Mosaic answered something else · 86 the state volume
# cannot be written · 87 a variable is missing · 78 the gateway refused its config · 127 there is no such command.
set -u
umask 077
base=${MOSAIC_RUN_DIR:-/run/mosaic}
wait=${MOSAIC_WAIT:-120}
export OPENCLAW_STATE_DIR="${OPENCLAW_STATE_DIR:-/home/node/.openclaw}"
export OPENCLAW_CONFIG_PATH="$base/gateway/openclaw.json" OPENCLAW_CONFIG_READONLY=1
export XDG_CACHE_HOME="${XDG_CACHE_HOME:-$OPENCLAW_STATE_DIR/cache}"
marks=$OPENCLAW_STATE_DIR/.mosaic
soul=$OPENCLAW_STATE_DIR/workspace/SOUL.md

fail() {
  code=$1
  shift
  echo "mosaic: $*" >&2
  exit "$code"
}

# A tmpfs of Swarm's is open to all (1777): so a directory of our own inside it.
prepare() {
  [ "$(stat -f -c %T "$base" 2>/dev/null)" = tmpfs ] || fail 81 "$base is no tmpfs; secrets would touch a disk"
  rm -rf "$base/gateway" 2>/dev/null
  mkdir -m 0700 "$base/gateway" 2>/dev/null || fail 81 "$base/gateway cannot be made"
}

pushed() {
  timeout "$wait" tar -xf - -C "$base/gateway" 2>/dev/null || fail 82 "no whole tar came on standard input within $wait s"
  [ -s "$OPENCLAW_CONFIG_PATH" ] || fail 82 "standard input brought no openclaw.json"
}

pulled() {
  [ -n "${AGENT_ID:-}" ] || fail 87 "AGENT_ID is not set"
  [ -n "${AGENT_TOKEN_FILE:-}${AGENT_TOKEN:-}" ] || fail 87 "neither AGENT_TOKEN_FILE nor AGENT_TOKEN is set"
  command -v node >/dev/null || fail 127 "this image has no node"
  node -e "$fetch" "$base/gateway" "$wait" </dev/null || exit $?
  unset AGENT_TOKEN
}

fetch='
const fs = require("node:fs");
const [place, seconds] = process.argv.slice(1);
const fail = (code, text) => { process.stderr.write(`mosaic: ${text}\n`); process.exit(code); };
const env = process.env, end = Date.now() + seconds * 1000;
const read = (path) => { try { return fs.readFileSync(path, "utf8").trim(); } catch (e) { fail(87, `AGENT_TOKEN_FILE: ${e.message}`); } };
const token = env.AGENT_TOKEN_FILE ? read(env.AGENT_TOKEN_FILE) : env.AGENT_TOKEN;
const path = ["api/internal/agent-config", env.AGENT_TYPE || "system", env.AGENT_ID].map((one, n) => n ? encodeURIComponent(one) : one).join("/");
const url = `${env.MOSAIC_API_URL.replace(/\/+$/, "")}/${path}`;
const again = (status) => status >= 500 || status === 429 || status === 408;

async function attempt() {
  const options = { headers: { authorization: `Bearer ${token}` }, redirect: "error", signal: AbortSignal.timeout(10000) };
  const response = await fetch(url, options);
  if ([401, 403, 404].includes(response.status)) fail(84, `${env.MOSAIC_API_URL} refuses the token of ${env.AGENT_ID}`);
  if (again(response.status)) throw new Error(`HTTP ${response.status}`);
  if (response.status !== 200) fail(85, `${env.MOSAIC_API_URL} answered HTTP ${response.status}`);
  return response.text();
}

function files(text) {
  try {
    const found = Object.entries(JSON.parse(text).files);
    if (found.some(([name, content]) => !/^[A-Za-z_.]+$/.test(name) || typeof content !== "string")) throw 0;
    if (!found.some(([name]) => name === "openclaw.json")) throw 0;
    return found;
  } catch { return fail(85, `${env.MOSAIC_API_URL} answered no config`); }
}

(async () => {
  for (let pause = 500, why; ; pause = Math.min(pause * 2, 10000)) {
    try {
      for (const [name, content] of files(await attempt())) fs.writeFileSync(`${place}/${name}`, content, { mode: 0o400 });
      return;
    } catch (error) { why = error.cause?.code ?? error.cause?.message ?? error.message; }
    if (Date.now() + pause > end) fail(83, `${env.MOSAIC_API_URL} does not answer within ${seconds} s: ${why}`);
    await new Promise((done) => setTimeout(done, pause * (0.75 + Math.random() / 2)));
  }
})();
'

# The agent may rewrite its SOUL.md: it is replaced only when the text in Mosaic is another one than last time.
personality() {
  given=$base/gateway/SOUL.md
  last=$(cat "$marks/soul" 2>/dev/null)
  now=
  [ ! -e "$given" ] || now=$(sha256sum <"$given")
  mkdir -p "$marks" "${soul%/*}" && echo yes >"$marks/writable" || return 1
  if [ "$now" = "$last" ]; then return 0; fi
  if [ -z "$now" ]; then
    [ "$(sha256sum <"$soul")" != "$last" ] || rm -f "$soul"
    rm -f "$marks/soul"
    return
  fi
  cp "$given" "$marks/SOUL.md.new" && chmod 600 "$marks/SOUL.md.new" && mv -f "$marks/SOUL.md.new" "$soul" &&
    echo "$now" >"$marks/soul.new" && mv -f "$marks/soul.new" "$marks/soul"
}

[ $# -gt 0 ] || fail 127 "no command was given"
prepare
if [ -n "${MOSAIC_API_URL:-}" ]; then pulled; else pushed; fi
personality 2>/dev/null || fail 86 "the state volume at $OPENCLAW_STATE_DIR cannot be written: full, or read-only?"
command -v "$1" >/dev/null || fail 127 "there is no command $1"
# OpenClaw prints every reply on standard output: nowhere, so that no log holds them.
exec "$@" </dev/null >/dev/null
