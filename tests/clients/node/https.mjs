// The conversation (tests/src/clients/conversation.rs) by Node's https module.
import https from "node:https";

const origin = process.argv[2];
const headers = { authorization: "Bearer " + process.env.LAB_API_KEY };
const ask = (method, path, body) =>
  new Promise((resolve, reject) => {
    const request = https.request(origin + path, { method, headers }, async (answer) => {
      let text = "";
      for await (const chunk of answer.setEncoding("utf8")) text += chunk;
      resolve({ status: answer.statusCode, text });
    });
    request.on("error", reject);
    request.end(body);
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
