// A day of an app developer with the TypeScript SDK; prints one line of JSON.
// The first argument names the package: "@anthropic-ai/sdk" (1.x), or "sdk-old", the last release before it.
// The header x-sim-fault asks the simulated upstream for trouble; the gateway passes it on as any it does not know.

const { default: Anthropic, toFile } = await import(process.argv[2]);

const { BASE_URL: baseURL, API_KEY: apiKey, CONVERSATION, LIMITED_MODEL } = process.env;
const client = new Anthropic({ baseURL, apiKey, maxRetries: 0 });
const conversation = { headers: { "X-Conversation-Id": CONVERSATION } };
const fault = (kind) => ({ headers: { "x-sim-fault": kind } });
const model = "claude-haiku-4-5";
const messages = [{ role: "user", content: "Hello" }];
const hello = { model, max_tokens: 64, messages };
const tool = {
  name: "get_weather",
  description: "The weather of a place.",
  input_schema: {
    type: "object",
    properties: { place: { type: "string" }, days: { type: "integer" } },
    required: ["place", "days"],
  },
};

const answer = ({ content, stop_reason, usage }) => ({
  text: content.map((block) => block.text ?? "").join(""),
  stop_reason,
  input_tokens: usage.input_tokens,
  output_tokens: usage.output_tokens,
});

// What a call throws, as the caller sees it; {returned} where it throws nothing.
const errorOf = async (call) => {
  try {
    return { returned: JSON.stringify(await call()) ?? "undefined" };
  } catch (error) {
    return {
      class: error.constructor.name,
      message: String(error.message).slice(0, 200),
      status: error.status,
      type: error.type ?? error.error?.error?.type,
      request_id: error.requestID,
    };
  }
};

const collect = async (iterable) => {
  const all = [];
  for await (const each of iterable) all.push(each);
  return all;
};

const steps = {
  async messages() {
    const { data, response, request_id } = await client.messages.create(hello, conversation).withResponse();
    const next = await client.messages.create(hello, conversation).withResponse();
    return {
      ...answer(data),
      request_id,
      account: response.headers.get("x-gateway-account"),
      next_account: next.response.headers.get("x-gateway-account"),
      next_route: next.response.headers.get("x-gateway-route"),
    };
  },

  async stream() {
    const pieces = [];
    const stream = client.messages.stream(hello, conversation).on("text", (piece) => pieces.push(piece));
    const message = await stream.finalMessage();
    const events = await collect(await client.messages.create({ ...hello, stream: true }));
    return { ...answer(message), pieces, events: events.map((event) => event.type) };
  },

  async tools() {
    const asked = [{ role: "user", content: "Please use the tool." }];
    const params = { model, max_tokens: 256, tools: [tool] };
    const first = await client.messages.create({ ...params, messages: asked }, conversation);
    const call = first.content.find((block) => block.type === "tool_use");
    const whole = await client.messages.stream({ ...params, messages: asked }, conversation).finalMessage();
    const streamed = whole.content.find((block) => block.type === "tool_use");
    const result = { type: "tool_result", tool_use_id: call.id, content: "Sunny, 21 degrees" };
    const turns = [...asked, { role: "assistant", content: first.content }, { role: "user", content: [result] }];
    return {
      stop_reason: first.stop_reason,
      call: { name: call.name, input: call.input },
      streamed: { name: streamed.name, input: streamed.input },
      answer: answer(await client.messages.create({ ...params, messages: turns }, conversation)),
    };
  },

  async count_tokens() {
    return await client.messages.countTokens({ model, messages });
  },

  async models() {
    const first = await client.models.list({ limit: 2 });
    return {
      page: first.data.map(({ id }) => id),
      all: (await collect(first)).map(({ id }) => id), // iterating asks for the other pages
      retrieved: (await client.models.retrieve(model)).display_name,
      unknown: await errorOf(() => client.models.retrieve("claude-none-1")),
    };
  },

  async batches() {
    const { batches } = client.messages;
    const requests = ["one", "two", "three"].map((custom_id) => ({ custom_id, params: hello }));
    const created = await batches.create({ requests });
    const other = await batches.create({ requests });
    const cancelled = await batches.cancel(other.id);
    const ended = await waitFor(created.id);
    await waitFor(other.id);
    const results = await collect(await batches.results(created.id)); // asks for the batch, then for its results_url
    const deleted = await batches.delete(other.id);
    return {
      created: created.processing_status,
      cancelled: cancelled.processing_status,
      ended: ended.processing_status,
      succeeded: ended.request_counts.succeeded,
      results_url: ended.results_url,
      results: Object.fromEntries(results.map((each) => [each.custom_id, answer(each.result.message)])),
      listed: (await collect(batches.list({ limit: 1 }))).some(({ id }) => id === created.id),
      deleted: deleted.type,
      gone: await errorOf(() => batches.retrieve(other.id)),
      left: (await batches.retrieve(created.id)).id === created.id,
    };
  },

  async files() {
    const content = "The word of the day is heliotrope.\n".repeat(3);
    const upload = async (name) =>
      client.files.upload({ file: await toFile(Buffer.from(content), name, { type: "text/plain" }) });
    const made = [await upload("day.txt"), await upload("night.txt")];
    const [uploaded] = made;
    const document = { type: "document", source: { type: "file", file_id: uploaded.id } };
    const question = [{ role: "user", content: [document, { type: "text", text: "Which word?" }] }];
    const used = await client.messages.create({ ...hello, messages: question }).withResponse();
    const listed = (await collect(client.files.list({ limit: 1 }))).map(({ id }) => id);
    const shown = ({ filename, size_bytes, mime_type }) => ({ name: filename, size: size_bytes, mime: mime_type });
    return {
      uploaded: shown(uploaded),
      size: content.length,
      used: { ...answer(used.data), route: used.response.headers.get("x-gateway-route") },
      listed: made.every(({ id }) => listed.includes(id)),
      metadata: shown(await client.files.retrieveMetadata(uploaded.id)),
      downloaded: await downloaded(uploaded.id),
      deleted: [(await client.files.delete(made[0].id)).type, (await client.files.delete(made[1].id)).type],
      gone: await errorOf(() => client.files.retrieveMetadata(uploaded.id)),
      gone_content: await errorOf(() => client.files.download(uploaded.id)),
    };
  },

  async errors() {
    const stranger = new Anthropic({ baseURL, apiKey: "sk-wrong", maxRetries: 0 });
    const create = (changes, options) => errorOf(() => client.messages.create({ ...hello, ...changes }, options));
    return {
      bad_key: await errorOf(() => stranger.messages.create(hello)),
      not_found: await create({ model: "claude-none-1" }),
      bad_request: await create({ messages: [] }),
      too_large: await create({ system: "x".repeat(33 << 20) }),
      overloaded: await create({}, fault("status=529")),
      // Of a model of its own: its limit is then known to be reached at every account.
      rate_limited: await create({ model: "claude-opus-4-8" }, fault("status=429")),
    };
  },

  // The model of this step is at its limit, and says for how long. The SDK counts its retries in a request header only.
  async retry() {
    let requests = 0;
    const counting = (...request) => (requests++, fetch(...request));
    const patient = new Anthropic({ baseURL, apiKey, maxRetries: 2, fetch: counting });
    const message = await patient.messages.create({ ...hello, model: LIMITED_MODEL });
    return { ...answer(message), retries: requests - 1 };
  },

  // A stream that stops midway must never look like a whole message.
  async broken() {
    const byHelper = async (options) => (await client.messages.stream(hello, options).finalMessage()).stop_reason;
    const byHand = async (options) =>
      (await collect(await client.messages.create({ ...hello, stream: true }, options))).at(-1).type;
    const seen = {};
    for (const kind of ["error_mid_stream=5", "cut=900", "polite_end=5"])
      seen[kind] = {
        helper: await errorOf(() => byHelper(fault(kind))),
        raw: await errorOf(() => byHand(fault(kind))),
      };
    return seen;
  },

  // The namespace of what is not settled yet; older releases mark it by ?beta=true.
  async beta() {
    const message = await client.beta.messages.create({ ...hello, betas: ["context-management-2025-06-27"] });
    const counted = await client.beta.messages.countTokens({ model, messages });
    return { ...answer(message), counted: counted.input_tokens };
  },

  // Text completions: the old generation's alone, the new one has dropped them.
  async complete() {
    if (!client.completions) return { dropped: true };
    const prompt = "\n\nHuman: Hello\n\nAssistant:";
    const { completion, stop_reason } = await client.completions.create({ model, prompt, max_tokens_to_sample: 64 });
    return { text: completion, stop_reason };
  },
};

async function waitFor(id) {
  for (let tries = 0; tries < 300; tries++) {
    const batch = await client.messages.batches.retrieve(id);
    if (batch.processing_status === "ended") return batch;
    await new Promise((resume) => setTimeout(resume, 100));
  }
  throw new Error(`${id} does not end`);
}

// The content; the API gives back what tools have made, and refuses what was uploaded.
async function downloaded(id) {
  try {
    return { text: await (await client.files.download(id)).text() };
  } catch (error) {
    if (!(error instanceof Anthropic.BadRequestError)) throw error;
    return { refused: error.status };
  }
}

const seen = { version: process.argv[2] };
for (const [name, step] of Object.entries(steps)) {
  try {
    seen[name] = await step();
  } catch (error) {
    seen[name] = { failed: String(error.stack) };
  }
}
console.log(JSON.stringify(seen));
