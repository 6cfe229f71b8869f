// Reads {text, timeout} on standard input, waits until this container's gateway has started, asks it, and copies
// its server-sent events to standard output. What goes wrong is told as one such event: {"error": {"message"}}.
const fs = require("node:fs");

const BASE = "http://127.0.0.1:18789";
const request = JSON.parse(fs.readFileSync(0, "utf8"));
const token = fs.readFileSync("/run/secrets/gateway_token", "utf8").trim();

async function started() {
  const end = Date.now() + request.timeout * 1000;
  for (;;) {
    try {
      const response = await fetch(`${BASE}/startupz`);
      if (response.ok && (await response.json()).ok) return;
    } catch {}
    if (Date.now() > end) throw new Error(`not started after ${request.timeout} s`);
    await new Promise((again) => setTimeout(again, 250));
  }
}

async function ask() {
  await started();
  const response = await fetch(`${BASE}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    body: JSON.stringify({ model: "openclaw", stream: true, messages: [{ role: "user", content: request.text }] }),
  });
  if (!response.ok) {
    const body = await response.text();
    let message = body.slice(0, 300);
    try {
      message = JSON.parse(body).error.message;
    } catch {}
    throw new Error(`${response.status} ${message}`);
  }
  for await (const chunk of response.body) process.stdout.write(chunk);
}

ask().catch((error) => {
  const cause = error.cause ? ` (${error.cause.message || error.cause.code})` : "";
  process.stdout.write(`data: ${JSON.stringify({ error: { message: error.message + cause } })}\n\n`);
});
