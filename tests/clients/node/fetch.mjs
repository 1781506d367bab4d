// The conversation (tests/src/clients/conversation.rs) by fetch, in Node, Deno or Bun.
import process from "node:process";

const origin = process.argv[2];
const headers = { authorization: "Bearer " + process.env.LAB_API_KEY };
const ask = (method, path, body) => fetch(origin + path, { method, headers, body });

const { deno, bun, node } = process.versions;
console.log("version", deno ?? bun ?? node);
let answer = await ask("GET", "/v1/lab/echo");
console.log("echo", answer.status);
console.log(await answer.text());

answer = await ask("POST", "/v1/lab/upload", new Uint8Array(3_000_000));
console.log("upload", answer.status, (await answer.text()).trimEnd());

answer = await ask("GET", "/v1/lab/events/3");
let text = "";
const decoder = new TextDecoder();
for await (const chunk of answer.body) text += decoder.decode(chunk, { stream: true });
for (const line of text.split("\n")) if (line.startsWith("data: ")) console.log(line.slice(6));

answer = await ask("DELETE", "/v1/models/m");
console.log("refused", answer.status, (await answer.text()).trimEnd());
