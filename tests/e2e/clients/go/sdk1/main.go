// The journeys of an app developer, with major version 1 of the Go SDK; prints one line of JSON.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
)

const model = "claude-haiku-4-5"

func main() {
	ctx := context.Background()
	conversation := option.WithHeader("X-Conversation-Id", os.Getenv("CONVERSATION"))
	client := anthropic.NewClient(
		option.WithBaseURL(os.Getenv("BASE_URL")), option.WithAPIKey(os.Getenv("API_KEY")), option.WithMaxRetries(0))
	messages := []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("Hello"))}
	params := anthropic.MessageNewParams{Model: model, MaxTokens: 64, Messages: messages}

	var head *http.Response
	message, err := client.Messages.New(ctx, params, conversation, option.WithResponseInto(&head))
	must(err)

	streamed, deltas := anthropic.Message{}, 0
	stream := client.Messages.NewStreaming(ctx, params, conversation)
	for stream.Next() {
		event := stream.Current()
		must(streamed.Accumulate(event))
		if event.Type == "content_block_delta" {
			deltas++
		}
	}
	must(stream.Err())

	counted, err := client.Messages.CountTokens(ctx, anthropic.MessageCountTokensParams{Model: model, Messages: messages})
	must(err)
	models := []string{}
	pages := client.Models.ListAutoPaging(ctx, anthropic.ModelListParams{})
	for pages.Next() {
		models = append(models, pages.Current().ID)
	}
	must(pages.Err())

	_, notFound := client.Messages.New(ctx, anthropic.MessageNewParams{Model: "claude-none-1", MaxTokens: 64, Messages: messages})
	_, badRequest := client.Messages.New(ctx, anthropic.MessageNewParams{Model: model, MaxTokens: 64, Messages: []anthropic.MessageParam{}})
	_, badKey := client.Messages.New(ctx, params, option.WithAPIKey("sk-wrong"))

	must(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"message":      answer(message),
		"account":      head.Header.Get("x-gateway-account"),
		"request_id":   head.Header.Get("request-id"),
		"stream":       answer(&streamed),
		"deltas":       deltas,
		"input_tokens": counted.InputTokens,
		"models":       models,
		"not_found":    fault(notFound),
		"bad_request":  fault(badRequest),
		"bad_key":      fault(badKey),
	}))
}

func answer(message *anthropic.Message) map[string]any {
	text := ""
	for _, block := range message.Content {
		text += block.Text
	}
	return map[string]any{
		"text": text, "stop_reason": message.StopReason,
		"input_tokens": message.Usage.InputTokens, "output_tokens": message.Usage.OutputTokens,
	}
}

func fault(err error) map[string]any {
	var known *anthropic.Error
	if !errors.As(err, &known) {
		return map[string]any{"error": "not an error of the API"}
	}
	return map[string]any{"status": known.StatusCode, "type": known.Type(), "request_id": known.RequestID}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
