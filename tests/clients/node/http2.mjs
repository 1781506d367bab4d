// The conversation (tests/src/clients/conversation.rs) by Node's http2 module.
import http2 from "node:http2";

const session = http2.connect(process.argv[2]);
const authorization = "Bearer " + process.env.LAB_API_KEY;
const ask = (method, path, body) =>
  new Promise((resolve, reject) => {
    const stream = session.request({ ":method": method, ":path": path, authorization });
    let status;
    let text = "";
    stream.on("response", (headers) => (status = headers[":status"]));
    stream.setEncoding("utf8").on("data", (chunk) => (text += chunk));
    stream.on("error", reject).on("end", () => resolve({ status, text }));
    stream.end(body);
  });

console.log("version", process.versions.node);
let answer = await ask("GET", "/v1/lab/echo");
console.log("echo", answer.status);
console.log(answer.text);
answer = await ask("POST", "/v1/lab/upload", Buffer.alloc(3_000_000));
console.log("upload", answer.status, answer.text.trimEnd());
answer = await ask("GET", "/v1/lab/events/3");
for (const line of answer.text.split("\n")) {
  if (line.startsWith("data: ")) console.log(line.slice(6));
}
answer = await ask("DELETE", "/v1/models/m");
console.log("refused", answer.status, answer.text.trimEnd());
session.close();
