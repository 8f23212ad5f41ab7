// The unmodified `openai` package from npm: one round of everything, told as one line of JSON for the test to judge.
// Run from a folder where it is installed: BASE_URL=… API_KEY=… CHAT=… EMBED=… node openai_node.mjs
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const found = createRequire(`${process.cwd()}/`).resolve("openai");
const { default: OpenAI } = await import(pathToFileURL(found));
const { BASE_URL: baseURL, API_KEY: apiKey, CHAT, EMBED } = process.env;
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 300_000 });
const messages = [{ role: "user", content: "Say hello in one short sentence." }];
const asked = { model: CHAT, messages, max_tokens: 200, temperature: 0 };
const told = {};

told.models = (await client.models.list()).data.map((model) => model.id);
const whole = await client.chat.completions.create(asked);
told.text = whole.choices[0].message.content;
told.usage = whole.usage;

told.streamed = "";
const stream = await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } });
for await (const chunk of stream) {
  told.streamed += chunk.choices[0]?.delta?.content ?? "";
  told.streamedUsage = chunk.usage ?? told.streamedUsage;
}

const helper = client.chat.completions.stream(asked);
told.gathered = await helper.finalContent();

const left = await client.chat.completions.create({ ...asked, max_tokens: 200, stream: true });
for await (const _ of left) break; // the client aborts the request

const vectors = await client.embeddings.create({ model: EMBED, input: ["a toll road", "raspberry jam"] });
told.dimensions = vectors.data.map((row) => row.embedding.length);
told.length = Math.hypot(...vectors.data[0].embedding);

const plain = await client.completions.create({ model: CHAT, prompt: "One, two, three,", max_tokens: 4, temperature: 0 });
told.completion = plain.choices[0].text;

const { response } = await client.chat.completions.create({ ...asked, max_tokens: 1 }).withResponse();
told.requestId = response.headers.get("x-request-id");

const schema = { type: "object", properties: { name: { type: "string", maxLength: 20 } }, required: ["name"], additionalProperties: false };
const shaped = await client.chat.completions.parse({
  ...asked, max_tokens: 60, response_format: { type: "json_schema", json_schema: { name: "fruit", schema, strict: true } },
});
told.shaped = JSON.parse(shaped.choices[0].message.content);

async function failure(call) {
  try {
    await call();
    return null;
  } catch (error) {
    return [error.constructor.name, error.status, error.code, error.param];
  }
}
told.unknownModel = await failure(() => client.chat.completions.create({ ...asked, model: "gpt-9" }));
told.badValue = await failure(() => client.chat.completions.create({ ...asked, temperature: 9 }));
const stranger = new OpenAI({ baseURL, apiKey: "tw_live_wrong", maxRetries: 0 });
told.wrongKey = await failure(() => stranger.models.list());
console.log(JSON.stringify(told));
