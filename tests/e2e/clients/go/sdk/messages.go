package main

// Messages, and what belongs to them.

import (
	"net/http"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/anthropics/anthropic-sdk-go/v2/option"
)

func messages() seen {
	var head, next *http.Response
	message, err := client.Messages.New(ctx, params, conversation, option.WithResponseInto(&head))
	must(err)
	_, err = client.Messages.New(ctx, params, conversation, option.WithResponseInto(&next))
	must(err)
	out := answer(message)
	out["request_id"] = head.Header.Get("request-id")
	out["account"] = head.Header.Get("x-gateway-account")
	out["next_account"] = next.Header.Get("x-gateway-account")
	out["next_route"] = next.Header.Get("x-gateway-route")
	return out
}

func stream() seen {
	message, kinds, pieces, err := read(params, conversation)
	must(err)
	out := answer(message)
	out["events"], out["pieces"] = kinds, pieces
	return out
}

// read takes a stream to its end; this SDK has one way only to do so.
func read(params anthropic.MessageNewParams, opts ...option.RequestOption) (*anthropic.Message, []string, []string, error) {
	message, kinds, pieces := anthropic.Message{}, []string{}, []string{}
	stream := client.Messages.NewStreaming(ctx, params, opts...)
	for stream.Next() {
		event := stream.Current()
		must(message.Accumulate(event))
		kinds = append(kinds, event.Type)
		if event.Delta.Text != "" {
			pieces = append(pieces, event.Delta.Text)
		}
	}
	return &message, kinds, pieces, stream.Err()
}

func tools() seen {
	weather := anthropic.ToolParam{
		Name:        "get_weather",
		Description: anthropic.String("The weather of a place."),
		InputSchema: anthropic.ToolInputSchemaParam{
			Properties: seen{"place": seen{"type": "string"}, "days": seen{"type": "integer"}},
			Required:   []string{"place", "days"},
		},
	}
	asked := anthropic.NewUserMessage(anthropic.NewTextBlock("Please use the tool."))
	params := anthropic.MessageNewParams{
		Model: model, MaxTokens: 256, Messages: []anthropic.MessageParam{asked},
		Tools: []anthropic.ToolUnionParam{{OfTool: &weather}},
	}
	first, err := client.Messages.New(ctx, params, conversation)
	must(err)
	streamed, _, _, err := read(params, conversation)
	must(err)
	call := toolCall(first)
	result := anthropic.NewToolResultBlock(call.ID, "Sunny, 21 degrees", false)
	params.Messages = []anthropic.MessageParam{asked, first.ToParam(), anthropic.NewUserMessage(result)}
	last, err := client.Messages.New(ctx, params, conversation)
	must(err)
	return seen{
		"stop_reason": first.StopReason,
		"call":        seen{"name": call.Name, "input": call.Input},
		"streamed":    seen{"name": toolCall(streamed).Name, "input": toolCall(streamed).Input},
		"answer":      answer(last),
	}
}

func toolCall(message *anthropic.Message) anthropic.ContentBlockUnion {
	for _, block := range message.Content {
		if block.Type == "tool_use" {
			return block
		}
	}
	panic("no tool is called")
}

func countTokens() seen {
	counted, err := client.Messages.CountTokens(ctx, anthropic.MessageCountTokensParams{Model: model, Messages: hello})
	must(err)
	return seen{"input_tokens": counted.InputTokens}
}

func models() seen {
	two := anthropic.ModelListParams{Limit: anthropic.Int(2)}
	first, err := client.Models.List(ctx, two)
	must(err)
	page, all := []string{}, []string{}
	for _, each := range first.Data {
		page = append(page, each.ID)
	}
	pages := client.Models.ListAutoPaging(ctx, two)
	for pages.Next() {
		all = append(all, pages.Current().ID)
	}
	must(pages.Err())
	one, err := client.Models.Get(ctx, model, anthropic.ModelGetParams{})
	must(err)
	_, unknown := client.Models.Get(ctx, "claude-none-1", anthropic.ModelGetParams{})
	return seen{"page": page, "all": all, "retrieved": one.DisplayName, "unknown": fault(unknown)}
}

// beta is the namespace of what is not settled yet; older releases mark it by ?beta=true.
func beta() seen {
	said := []anthropic.BetaMessageParam{anthropic.NewBetaUserMessage(anthropic.NewBetaTextBlock("Hello"))}
	message, err := client.Beta.Messages.New(ctx, anthropic.BetaMessageNewParams{
		Model: model, MaxTokens: 64, Messages: said, Betas: []anthropic.AnthropicBeta{"context-management-2025-06-27"},
	})
	must(err)
	counted, err := client.Beta.Messages.CountTokens(
		ctx, anthropic.BetaMessageCountTokensParams{Model: model, Messages: said})
	must(err)
	return seen{
		"text": message.Content[0].Text, "stop_reason": message.StopReason, "input_tokens": message.Usage.InputTokens,
		"output_tokens": message.Usage.OutputTokens, "counted": counted.InputTokens,
	}
}
