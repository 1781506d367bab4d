// The official `openai` package, as its documentation uses it: the key from the environment,
// nothing else set.
import process from "node:process";
import OpenAI from "openai";
import { VERSION } from "openai/version";

const messages = [{ role: "user", content: "Say hello" }];
const client = new OpenAI();
console.log("version", VERSION);
console.log("key", process.env.OPENAI_API_KEY);

const answer = await client.chat.completions.create({ model: "gpt-lab", messages });
console.log("whole", answer.choices[0].message.content);

const asked = { model: "gpt-lab-gated", messages, stream: true };
const stream = await client.chat.completions.create(asked);
for await (const chunk of stream) {
  const text = chunk.choices[0]?.delta?.content;
  if (text) console.log("delta", `'${text}'`);
}
const response = await client.responses.create({ model: "gpt-lab", input: "Say hello" });
console.log("response", response.output_text);
try {
  await client.files.delete("file-1");
} catch (error) {
  console.log("refused", error.constructor.name, error.status, error.message);
}
