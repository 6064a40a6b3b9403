// A workload with a token file of its own and the TypeScript SDK: first by environment alone, then with a key that is
// read for each request. After each call it prints the caller's model list length and waits for a line: meanwhile the
// file is rotated.

import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline/promises";
import Anthropic from "@anthropic-ai/sdk";

const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const hello = { model: "claude-haiku-4-5", max_tokens: 64, messages: [{ role: "user", content: "Hello" }] };
const call = async (client) => {
  const answer = await client.messages.create(hello);
  console.log(JSON.stringify({ stop_reason: answer.stop_reason }));
  await input.next();
};

const federated = new Anthropic({ maxRetries: 1 });
await call(federated);
await call(federated);
const file = process.env.ANTHROPIC_IDENTITY_TOKEN_FILE;
const direct = new Anthropic({ apiKey: async () => (await readFile(file, "utf8")).trim(), maxRetries: 0 });
await call(direct);
await call(direct);
process.exit(0);
