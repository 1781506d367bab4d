// The official `@anthropic-ai/sdk` package, as its documentation uses it: the key from the
// environment, nothing else set.
import process from "node:process";
import Anthropic from "@anthropic-ai/sdk";
import { VERSION } from "@anthropic-ai/sdk/version";

const asked = { max_tokens: 64, messages: [{ role: "user", content: "Say hello" }] };
const client = new Anthropic();
console.log("version", VERSION);
console.log("key", process.env.ANTHROPIC_API_KEY);

const answer = await client.messages.create({ model: "claude-lab", ...asked });
console.log("whole", answer.content[0].text);

const stream = client.messages.stream({ model: "claude-lab-gated", ...asked });
for await (const event of stream) {
  if (event.type === "content_block_delta") console.log("delta", `'${event.delta.text}'`);
}
try {
  await client.models.list();
} catch (error) {
  console.log("refused", error.constructor.name, error.status, error.message);
}
