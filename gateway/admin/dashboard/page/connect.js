// What a client needs to use the gateway: ready to paste, with the base URL filled in.

import { copier } from "./dialogs.js";
import { byId, h, keyed, setText } from "./dom.js";

const BASE = "gateway.base";
const MODEL = "claude-sonnet-4-5";
let form;
let header = "X-Conversation-Id";

const SNIPPETS = [
  ["Python", "pip install anthropic", (v) => `import os, uuid
from anthropic import Anthropic

client = Anthropic(
    base_url="${v.base}",
    api_key=os.environ["GATEWAY_KEY"],
)
conversation = str(uuid.uuid4())  # one for each conversation; send it with every turn

message = client.messages.create(
    model="${v.model}",
    max_tokens=1024,
    messages=[{"role": "user", "content": "Hello"}],
    extra_headers={"${v.header}": conversation},
)
print(message.content[0].text)`],
  ["TypeScript", "npm install @anthropic-ai/sdk", (v) => `import { randomUUID } from "node:crypto";
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({
  baseURL: "${v.base}",
  apiKey: process.env.GATEWAY_KEY,
});
const conversation = randomUUID(); // one for each conversation; send it with every turn

const message = await client.messages.create(
  {
    model: "${v.model}",
    max_tokens: 1024,
    messages: [{ role: "user", content: "Hello" }],
  },
  { headers: { "${v.header}": conversation } },
);
console.log(message.content);`],
  ["Go", "go get github.com/anthropics/anthropic-sdk-go", (v) => `package main

import (
	"context"
	"fmt"
	"os"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
)

func main() {
	client := anthropic.NewClient(
		option.WithBaseURL("${v.base}"),
		option.WithAPIKey(os.Getenv("GATEWAY_KEY")),
	)
	conversation := "one-random-id-for-each-conversation"

	message, err := client.Messages.New(context.Background(), anthropic.MessageNewParams{
		Model:     "${v.model}",
		MaxTokens: 1024,
		Messages:  []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("Hello"))},
	}, option.WithHeader("${v.header}", conversation))
	if err != nil {
		panic(err)
	}
	fmt.Println(message.Content[0].Text)
}`],
  ["curl", "", (v) => `curl ${v.base}/v1/messages \\
  -H "x-api-key: $GATEWAY_KEY" \\
  -H "anthropic-version: 2023-06-01" \\
  -H "content-type: application/json" \\
  -H "${v.header}: $(uuidgen)" \\
  -d '{
    "model": "${v.model}",
    "max_tokens": 1024,
    "messages": [{"role": "user", "content": "Hello"}]
  }'`],
  ["Claude Code", "its session is the conversation: no header is needed", (v) => `export ANTHROPIC_BASE_URL="${v.base}"
export ANTHROPIC_AUTH_TOKEN="$GATEWAY_KEY"
claude`],
];

export function start(facts) {
  form = byId("connect-form");
  header = facts.clients?.affinity_header ?? header;
  const guess = facts.clients?.public_url || guessed(facts.clients?.listen);
  form.elements.base.value = remembered() ?? guess;
  form.elements.model.value = MODEL;
  form.addEventListener("input", () => {
    remember(form.elements.base.value === guess ? null : form.elements.base.value);
    draw();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  setText(byId("connect-hint"), `${facts.clients?.public_url ? "" : "The address above is the gateway’s own data listener as seen from this browser. Behind a load balancer, set public_url, or write its address here; it is remembered in this browser. "}Keep the key in the environment variable GATEWAY_KEY.`);
}

export function show() {
  draw();
}

/** The data listener's address as this browser would reach it. */
function guessed(listen) {
  const { host = "", port = 8080 } = listen ?? {};
  if (["", "0.0.0.0", "::"].includes(host)) return `http://${location.hostname}:${port}`;
  return `http://${host.includes(":") ? `[${host}]` : host}:${port}`;
}

function draw() {
  const base = (form.elements.base.value.trim() || "http://localhost:8080").replace(/\/+$/, "").replace(/["\\\s`$]/g, "");
  const model = (form.elements.model.value.trim() || MODEL).replace(/["\\\s`$']/g, "");
  const values = { base, model, header };
  keyed(byId("snippets"), SNIPPETS.map((each) => [...each, values]), ([name]) => name, ([name, note]) => {
    const code = h("code");
    const node = h("article", { class: "panel snippet", "aria-label": name }, h("header", {}, h("h2", {}, name), note ? h("span", { class: "muted" }, note) : null, copier(() => code.textContent)), h("pre", { tabindex: "0", role: "region", "aria-label": `${name} example` }, code));
    return { node, update: ([, , text, present]) => setText(code, text(present)) };
  });
}

function remembered() {
  try {
    return localStorage.getItem(BASE);
  } catch {
    return null;
  }
}

function remember(value) {
  try {
    if (value === null) localStorage.removeItem(BASE);
    else localStorage.setItem(BASE, value);
  } catch {
    // It lasts until the page is left.
  }
}
