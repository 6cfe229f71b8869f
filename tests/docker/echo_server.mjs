// Answers everything as a gateway's probe does, and adds what was sent.
import http from "node:http";
http
  .createServer(async (request, response) => {
    let body = "";
    for await (const part of request) body += part;
    const mark = request.headers["x-mark"];
    response.end(JSON.stringify({ ok: true, status: "started", body, mark }));
  })
  .listen(18789, "0.0.0.0");
