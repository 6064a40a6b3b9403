// A day of an app developer with the Go SDK; prints one line of JSON.
//
// This is the program for major version 2. That for version 1 is the same but for the import path, and is made from it
// when the rig is built; text completions, which version 1 alone has, are therefore left out. The header x-sim-fault
// asks the simulated upstream for trouble; the gateway passes it on as any it does not know.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/anthropics/anthropic-sdk-go/v2/option"
)

type seen = map[string]any

const model = "claude-haiku-4-5"

var (
	ctx          = context.Background()
	baseURL      = option.WithBaseURL(os.Getenv("BASE_URL"))
	key          = option.WithAPIKey(os.Getenv("API_KEY"))
	client       = anthropic.NewClient(baseURL, key, option.WithMaxRetries(0))
	conversation = option.WithHeader("X-Conversation-Id", os.Getenv("CONVERSATION"))
	hello        = []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("Hello"))}
	params       = anthropic.MessageNewParams{Model: model, MaxTokens: 64, Messages: hello}
)

func main() {
	all := seen{}
	for _, step := range []struct {
		name string
		run  func() seen
	}{
		{"messages", messages}, {"stream", stream}, {"tools", tools}, {"count_tokens", countTokens}, {"models", models},
		{"batches", batches}, {"files", files}, {"errors", errorsOfTheAPI}, {"retry", retry}, {"broken", broken},
		{"beta", beta},
	} {
		all[step.name] = attempt(step.run)
	}
	must(json.NewEncoder(os.Stdout).Encode(all))
}

func answer(message *anthropic.Message) seen {
	text := ""
	for _, block := range message.Content {
		text += block.Text
	}
	return seen{
		"text": text, "stop_reason": message.StopReason,
		"input_tokens": message.Usage.InputTokens, "output_tokens": message.Usage.OutputTokens,
	}
}

// attempt runs one step; what goes wrong in it is told instead of what it saw.
func attempt(step func() seen) (out seen) {
	defer func() {
		if problem := recover(); problem != nil {
			out = seen{"failed": fmt.Sprintf("%v\n%s", problem, debug.Stack())}
		}
	}()
	return step()
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
