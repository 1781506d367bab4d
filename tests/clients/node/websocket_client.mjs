// The `ws` package, as its documentation uses it.
import process from "node:process";
import { createRequire } from "node:module";
import WebSocket from "ws";

const headers = { authorization: "Bearer " + process.env.LAB_API_KEY };
console.log("version", createRequire(import.meta.url)("ws/package.json").version);

const socket = new WebSocket(process.argv[2] + "/v1/lab/ws", { headers });
const next = () => new Promise((resolve) => socket.once("message", resolve));
await new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
for (let number = 0; number < 3; number++) {
  socket.send(`message ${number}`);
  console.log("echo", (await next()).toString());
}
socket.send("x".repeat(300_000));
console.log("long", (await next()).length);
socket.send(Buffer.from([0, 255]));
console.log("binary", (await next()).toString("hex"));
socket.ping();
await new Promise((resolve) => socket.once("pong", resolve));
console.log("pong");
socket.close();
await new Promise((resolve) => socket.once("close", resolve));

const refused = new WebSocket(process.argv[2] + "/admin/ws", { headers });
refused.on("error", () => {});
refused.on("unexpected-response", async (_, response) => {
  let text = "";
  for await (const chunk of response.setEncoding("utf8")) text += chunk;
  console.log("refused", response.statusCode, text.trimEnd());
});
