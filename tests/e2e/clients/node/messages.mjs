// The journeys of an app developer, with the TypeScript SDK; prints one line of JSON.
import Anthropic from "@anthropic-ai/sdk";

const { BASE_URL: baseURL, API_KEY: apiKey, CONVERSATION } = process.env;
const client = new Anthropic({ baseURL, apiKey, maxRetries: 0 });
const headers = { "X-Conversation-Id": CONVERSATION };
const model = "claude-haiku-4-5";
const messages = [{ role: "user", content: "Hello" }];
const params = { model, max_tokens: 64, messages };

const answer = ({ content, stop_reason, usage }) => ({
  text: content.map((block) => block.text ?? "").join(""),
  stop_reason,
  input_tokens: usage.input_tokens,
  output_tokens: usage.output_tokens,
});

const fault = (promise) =>
  promise.then(
    () => ({ error: "not an error" }),
    (error) => ({
      class: error.constructor.name,
      status: error.status,
      type: error.type ?? error.error?.error?.type,
      request_id: error.requestID,
    }),
  );

const { data: message, response, request_id } = await client.messages.create(params, { headers }).withResponse();

let deltas = 0;
const stream = client.messages.stream(params, { headers }).on("text", () => deltas++);
const streamed = await stream.finalMessage();

const { input_tokens } = await client.messages.countTokens({ model, messages });
const models = [];
for await (const entry of client.models.list()) models.push(entry.id);

console.log(
  JSON.stringify({
    message: answer(message),
    account: response.headers.get("x-gateway-account"),
    request_id,
    stream: answer(streamed),
    deltas,
    input_tokens,
    models,
    not_found: await fault(client.messages.create({ ...params, model: "claude-none-1" })),
    bad_request: await fault(client.messages.create({ ...params, messages: [] })),
    bad_key: await fault(new Anthropic({ baseURL, apiKey: "sk-wrong", maxRetries: 0 }).messages.create(params)),
  }),
);
