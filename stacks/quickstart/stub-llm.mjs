// A stand-in for an LLM that speaks OpenAI (any prefix before /chat/completions) and Ollama, on plain node.
//
// Every answer carries a nonce made for that very request: "stub nonce <32 hex>". GET /requests lists the last 1000
// requests as {nonce, path, model, key, message, time, done}, so that whoever got an answer can prove where it is from.
// Words in the model's name or in the last user message steer it:
//   sleep:N      the answer takes N seconds, in pieces
//   status:NNN   this HTTP status and an error instead of an answer
//   tool:NAME{…} a call of this tool with these arguments first, and the answer once its result is there
import { createHash, randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";

const host = process.env.HOST ?? "0.0.0.0";
const port = Number(process.env.PORT ?? 11434);
const models = (process.env.MODELS ?? "glm-5,cogito").split(",");
const bodyLimit = 32 * 1024 * 1024;
const requests = [];

const seconds = () => Math.floor(Date.now() / 1000);
const textOf = (content) =>
  typeof content === "string" ? content : (content ?? []).map((part) => part.text ?? "").join("");

// OpenClaw adds what it knows of itself as user text, also as a message of its own after the question.
const internal = /<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>[\s\S]*?<<<END_OPENCLAW_INTERNAL_CONTEXT>>>/g;

function lastUserMessage(messages) {
  const texts = (messages ?? []).filter((message) => message.role === "user").map((message) => textOf(message.content));
  return texts.map((text) => text.replace(internal, "").trim()).findLast(Boolean) ?? "";
}

// Enough to tell two keys apart, not enough to use one.
function fingerprint(header) {
  const key = header?.replace(/^Bearer /i, "");
  if (!key) return null;
  return { last4: key.slice(-4), sha256: createHash("sha256").update(key).digest("hex").slice(0, 8) };
}

function remember(request, url, body) {
  const entry = {
    nonce: randomBytes(16).toString("hex"),
    path: url.pathname,
    model: body.model ?? "",
    key: fingerprint(request.headers.authorization),
    message: lastUserMessage(body.messages).slice(0, 200),
    time: new Date().toISOString(),
    done: false,
  };
  requests.push(entry);
  if (requests.length > 1000) requests.shift();
  return entry;
}

function steering(body) {
  const text = `${body.model} ${lastUserMessage(body.messages)}`;
  const number = (pattern) => Number(text.match(pattern)?.[1] ?? 0);
  return { wait: number(/\bsleep:(\d+(?:\.\d+)?)/), status: number(/\bstatus:([45]\d\d)\b/), call: callOf(body) };
}

// The tool to call, unless its result is there.
function callOf(body) {
  const messages = body.messages ?? [];
  const steered = (message) => message.role === "user" && textOf(message.content).match(/\btool:(\w+)(\{.*\})/);
  const place = messages.findLastIndex(steered);
  if (place < 0 || messages.slice(place).some((message) => message.role === "tool")) return null;
  const [, name, args] = steered(messages[place]);
  return { name, arguments: args };
}

// The pieces of an answer, spread over `wait` seconds; ends early when the client is gone.
async function* pieces(nonce, wait, signal) {
  const steps = Math.ceil(wait * 2);
  for (let step = 0; step < steps; step++) {
    await sleep((wait * 1000) / steps, undefined, { signal });
    yield `${step + 1} `;
  }
  yield* ["stub ", "nonce ", nonce];
}

function usageOf(body, text) {
  const prompt = JSON.stringify(body.messages ?? []).length >> 2;
  const completion = text.split(" ").length;
  return { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion };
}

const openai = {
  streamsByDefault: false,
  type: "text/event-stream; charset=utf-8",
  frame: (body, entry, kind, fields) => ({
    id: `chatcmpl-${entry.nonce.slice(0, 12)}`, object: kind, created: seconds(), model: body.model, ...fields,
  }),
  chunk(body, entry, fields) {
    return `data: ${JSON.stringify(this.frame(body, entry, "chat.completion.chunk", fields))}\n\n`;
  },
  piece(body, entry, content) {
    return this.chunk(body, entry, { choices: [{ index: 0, delta: { role: "assistant", content }, finish_reason: null }] });
  },
  end(body, entry, text) {
    const stop = this.chunk(body, entry, { choices: [{ index: 0, delta: {}, finish_reason: "stop" }] });
    const asked = body.stream_options?.include_usage;
    return stop + (asked ? this.chunk(body, entry, { choices: [], usage: usageOf(body, text) }) : "") + "data: [DONE]\n\n";
  },
  whole(body, entry, content) {
    const choices = [{ index: 0, message: { role: "assistant", content }, finish_reason: "stop" }];
    return this.frame(body, entry, "chat.completion", { choices, usage: usageOf(body, content) });
  },
};

const ollama = {
  streamsByDefault: true,
  type: "application/x-ndjson",
  frame: (body, content, fields) => ({
    model: body.model, created_at: new Date().toISOString(), message: { role: "assistant", content }, ...fields,
  }),
  piece(body, entry, content) {
    return JSON.stringify(this.frame(body, content, { done: false })) + "\n";
  },
  end(body, entry, text) {
    return JSON.stringify(this.whole(body, entry, "", text)) + "\n";
  },
  whole(body, entry, content, text = content) {
    const { prompt_tokens, completion_tokens } = usageOf(body, text);
    const counts = { prompt_eval_count: prompt_tokens, eval_count: completion_tokens };
    return this.frame(body, content, { done: true, done_reason: "stop", total_duration: 1, ...counts });
  },
};

function json(response, status, value) {
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(value));
}

async function bodyOf(request) {
  const parts = [];
  let size = 0;
  for await (const part of request) {
    size += part.length;
    if (size > bodyLimit) throw new RangeError("the body is too large");
    parts.push(part);
  }
  return JSON.parse(Buffer.concat(parts).toString("utf8") || "{}") ?? {};
}

// Only streamed, as OpenClaw asks.
function callTool(body, entry, response, call) {
  const tool_calls = [{ index: 0, id: `call_${entry.nonce.slice(0, 12)}`, type: "function", function: call }];
  const choice = (delta, finish_reason) => openai.chunk(body, entry, { choices: [{ index: 0, delta, finish_reason }] });
  response.writeHead(200, { "content-type": openai.type, "cache-control": "no-cache" });
  entry.done = true;
  response.end(choice({ role: "assistant", tool_calls }, null) + choice({}, "tool_calls") + "data: [DONE]\n\n");
}

async function chat(dialect, request, response, url) {
  const body = await bodyOf(request);
  const entry = remember(request, url, body);
  const { wait, status, call } = steering(body);
  if (call && dialect === openai) return callTool(body, entry, response, call);
  if (status) return json(response, status, { error: { message: `stub answers ${status} as told`, type: "stub" } });
  const gone = new AbortController();
  response.on("close", () => gone.abort());
  const streams = body.stream ?? dialect.streamsByDefault;
  let text = "";
  if (streams) response.writeHead(200, { "content-type": dialect.type, "cache-control": "no-cache" });
  for await (const piece of pieces(entry.nonce, wait, gone.signal)) {
    text += piece;
    if (streams) response.write(dialect.piece(body, entry, piece));
  }
  // Before the last byte: whoever has the whole answer finds it done in the list.
  entry.done = true;
  if (streams) response.end(dialect.end(body, entry, text));
  else json(response, 200, dialect.whole(body, entry, text));
}

const details = { family: "stub", format: "stub", parameter_size: "0B", quantization_level: "none" };
const card = (id) => ({ id, object: "model", created: 0, owned_by: "stub" });
const tag = (name) => ({ name, model: name, modified_at: "2026-01-01T00:00:00Z", size: 0, digest: "0", details });
const show = {
  details, capabilities: ["completion", "tools"],
  model_info: { "general.architecture": "stub", "stub.context_length": 131072 },
};

const routes = [
  ["GET", /^\/healthz$/, (_, response) => json(response, 200, { ok: true })],
  ["GET", /^\/requests$/, (_, response) => json(response, 200, requests)],
  ["GET", /\/models$/, (_, response) => json(response, 200, { object: "list", data: models.map(card) })],
  ["POST", /\/chat\/completions$/, (...call) => chat(openai, ...call)],
  ["POST", /^\/api\/chat$/, (...call) => chat(ollama, ...call)],
  ["POST", /^\/api\/show$/, (_, response) => json(response, 200, show)],
  ["GET", /^\/api\/tags$/, (_, response) => json(response, 200, { models: models.map(tag) })],
  ["GET", /^\/api\/version$/, (_, response) => json(response, 200, { version: "0.0.0-stub" })],
];

function refuse(response, error) {
  if (error.name === "AbortError") return;
  if (response.headersSent) return response.destroy();
  const status = error instanceof SyntaxError ? 400 : error instanceof RangeError ? 413 : 500;
  json(response, status, { error: { message: error.message, type: "stub" } });
}

const server = createServer(async (request, response) => {
  const url = new URL(request.url, "http://stub");
  const route = routes.find(([method, path]) => method === request.method && path.test(url.pathname));
  if (!route) return json(response, 404, { error: { message: `no such path: ${url.pathname}`, type: "stub" } });
  try {
    await route[2](request, response, url);
  } catch (error) {
    refuse(response, error);
  }
});

// Turns may be silent for long; the stub never is the one to hang up.
server.requestTimeout = 0;
server.listen(port, host, () => console.log(`stub llm listens on ${port}`));
for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => process.exit(0));
