// A receiver of webhooks that verifies signatures, with nothing but Node.
//
// It reads SECRET (the destination's secret) and PORT. A request whose signature is wrong is answered 401.

import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const SECRET = process.env.SECRET ?? "a-secret-for-the-example";
const HOST = process.env.HOST ?? "127.0.0.1";
const PORT = Number(process.env.PORT ?? 9000);
const MAX_BODY_BYTES = 1_048_576;

// Tells whether one signature of the header is the HMAC-SHA256 of the body. The header is `v0=` and one signature in
// hexadecimal, or two with a comma between them while a secret is rotated.
function isSigned(body, header, secret) {
  const [scheme, signatures = ""] = header.split("=", 2);
  const expected = createHmac("sha256", secret).update(body).digest();
  const matches = signatures.split(",").map((one) => {
    const given = Buffer.from(one.trim(), "hex");
    return given.length === expected.length && timingSafeEqual(given, expected);
  });
  return scheme === "v0" && matches.includes(true);
}

const seen = new Set(); // an event arrives at least once; a real receiver keeps the ids in its database

const server = createServer((request, response) => {
  const pieces = [];
  let length = 0;
  const answer = (status) => response.writeHead(status, { "Content-Length": "0" }).end();
  request.on("data", (piece) => {
    length += piece.length;
    if (length > MAX_BODY_BYTES) {
      answer(413);
      request.destroy();
    } else {
      pieces.push(piece);
    }
  });
  request.on("end", () => {
    const body = Buffer.concat(pieces);
    if (!isSigned(body, request.headers["x-outpost-signature"] ?? "", SECRET)) {
      answer(401);
      return;
    }
    const id = request.headers["x-outpost-event-id"];
    if (!seen.has(id)) {
      seen.add(id);
      console.log(`${request.headers["x-outpost-topic"]} ${id} ${body}`);
    }
    answer(200);
  });
});

server.listen(PORT, HOST, () => console.log(`listening on http://${HOST}:${server.address().port}/`));
