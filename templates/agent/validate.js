// Reads {name: text of an openclaw.json} on standard input, prints {name: {code, output}} of `openclaw config validate`.
const { spawn } = require("node:child_process");
const fs = require("node:fs");

const configs = Object.entries(JSON.parse(fs.readFileSync(0, "utf8")));
const verdicts = {};

function validate([name, text]) {
  const path = `/tmp/${name}.json`;
  fs.writeFileSync(path, text, { mode: 0o600 });
  const env = { ...process.env, OPENCLAW_CONFIG_PATH: path, OPENCLAW_STATE_DIR: "/tmp/state", XDG_CACHE_HOME: "/tmp/cache" };
  return new Promise((done) => {
    const child = spawn("openclaw", ["config", "validate"], { env });
    let output = "";
    child.stdout.on("data", (data) => (output += data));
    child.stderr.on("data", (data) => (output += data));
    child.on("error", (error) => done((verdicts[name] = { code: 127, output: String(error) })));
    child.on("close", (code) => done((verdicts[name] = { code: code ?? 1, output })));
  });
}

async function worker() {
  for (let next = configs.shift(); next; next = configs.shift()) await validate(next);
}

Promise.all([worker(), worker()]).then(() => process.stdout.write(JSON.stringify(verdicts)));
