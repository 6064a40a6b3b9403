// Conversations with the TypeScript SDK, all at a time, each of four turns: a tool, its result, and two more; every other
// turn is streamed. Prints a line of JSON: of each conversation what every turn saw.
// The first argument names the package; CONVERSATIONS is a list of {id, model, words}: the system prompt is the id so many times.

const { default: Anthropic } = await import(process.argv[2]);

const { BASE_URL: baseURL, API_KEY: apiKey, CONVERSATIONS } = process.env;
const client = new Anthropic({ baseURL, apiKey, maxRetries: 0 });
const tools = [{ name: "look", input_schema: { type: "object", properties: { at: { type: "string" } } } }];

// A message, and the response that it came in.
const ask = async (params, options, streamed) => {
  if (!streamed) {
    const { data, response } = await client.messages.create(params, options).withResponse();
    return { message: data, response, pieces: null };
  }
  const pieces = [];
  const stream = client.messages.stream(params, options).on("text", (piece) => pieces.push(piece));
  const { response } = await stream.withResponse();
  return { message: await stream.finalMessage(), response, pieces: pieces.join("") };
};

const talk = async ({ id, model, words }, index) => {
  const options = { headers: { "X-Conversation-Id": id } };
  const cached = [{ type: "text", text: `${id} `.repeat(words), cache_control: { type: "ephemeral" } }];
  const messages = [{ role: "user", content: "Please use the tool." }];
  const turns = [];
  for (let turn = 0; turn < 4; turn++) {
    const params = { model, max_tokens: 500, system: cached, tools, messages };
    const { message, response, pieces } = await ask(params, options, (turn + index) % 2 === 1);
    const { content, stop_reason, usage } = message;
    const calls = content.filter(({ type }) => type === "tool_use");
    turns.push({
      account: response.headers.get("x-gateway-account"),
      stop_reason,
      calls: calls.map(({ name }) => name),
      text: content.map(({ text }) => text ?? "").join(""),
      pieces,
      read: usage.cache_read_input_tokens,
    });
    const results = calls.map((call) => ({ type: "tool_result", tool_use_id: call.id, content: "seen" }));
    messages.push({ role: "assistant", content }, { role: "user", content: results.length ? results : "Go on." });
  }
  return turns;
};

console.log(JSON.stringify(await Promise.all(JSON.parse(CONVERSATIONS).map(talk))));
