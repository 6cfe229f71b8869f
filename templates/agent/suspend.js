// Asks this container's gateway to take no new work, which lasts two minutes, and prints how it is:
// {"status": "ready"}, {"status": "busy", "blockers": ["…"]}, or {"status": "unknown", "message"} when it does not say.
const fs = require("node:fs");
const { randomUUID } = require("node:crypto");

const RPC = "http://127.0.0.1:18789/api/v1/admin/rpc";
// One whose processor is busy may answer late; asked again by the same id, it gives the same answer.
const TRIES = 3;
const requestId = randomUUID();
const token = fs.readFileSync("/run/secrets/gateway_token", "utf8").trim();
const say = (value) => process.stdout.write(JSON.stringify(value));

async function prepare() {
  const response = await fetch(RPC, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    body: JSON.stringify({ method: "gateway.suspend.prepare", params: { requestId } }),
    signal: AbortSignal.timeout(10_000),
  });
  const text = await response.text();
  if (!response.ok) throw new Error(`${response.status} ${text.slice(0, 200)}`);
  const answer = JSON.parse(text);
  const state = answer.payload ?? answer.result ?? answer;
  const blockers = (state.blockers ?? []).map((one) => one.kind ?? one.id ?? String(one));
  say({ status: state.status ?? "unknown", blockers });
}

async function ask(tries) {
  try {
    await prepare();
  } catch (error) {
    if (error.name === "TimeoutError" && tries > 1) return ask(tries - 1);
    say({ status: "unknown", message: error.cause?.message ?? error.message });
  }
}

ask(TRIES);
