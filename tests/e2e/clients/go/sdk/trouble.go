package main

// Errors, retries, broken streams.

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/anthropics/anthropic-sdk-go/v2/option"
)

func errorsOfTheAPI() seen {
	create := func(change func(*anthropic.MessageNewParams), opts ...option.RequestOption) seen {
		changed := params
		change(&changed)
		_, err := client.Messages.New(ctx, changed, opts...)
		return fault(err)
	}
	as := func(name anthropic.Model) func(*anthropic.MessageNewParams) {
		return func(p *anthropic.MessageNewParams) { p.Model = name }
	}
	large := []anthropic.TextBlockParam{{Text: strings.Repeat("x", 33<<20)}}
	return seen{
		"bad_key":     create(as(model), option.WithAPIKey("sk-wrong")),
		"not_found":   create(as("claude-none-1")),
		"bad_request": create(func(p *anthropic.MessageNewParams) { p.Messages = []anthropic.MessageParam{} }),
		"too_large":   create(func(p *anthropic.MessageNewParams) { p.System = large }),
		"overloaded":  create(as(model), option.WithHeader("x-sim-fault", "status=529")),
		// Of a model of its own: its limit is then known to be reached at every account.
		"rate_limited": create(as("claude-opus-4-8"), option.WithHeader("x-sim-fault", "status=429")),
	}
}

// retry asks for a model that is at its limit, and says for how long.
func retry() seen {
	requests := 0
	counting := option.WithMiddleware(func(request *http.Request, next option.MiddlewareNext) (*http.Response, error) {
		requests++
		return next(request)
	})
	limited := params
	limited.Model = anthropic.Model(os.Getenv("LIMITED_MODEL"))
	message, err := client.Messages.New(ctx, limited, option.WithMaxRetries(2), counting)
	must(err)
	out := answer(message)
	out["retries"] = requests - 1
	return out
}

// broken: a stream that stops midway must never look like a whole message.
func broken() seen {
	out := seen{}
	for _, kind := range []string{"error_mid_stream=5", "cut=900", "polite_end=5"} {
		_, events, _, err := read(params, option.WithHeader("x-sim-fault", kind))
		out[kind] = seen{"raw": fault(err), "events": events}
	}
	return out
}

// fault is an error as the caller sees it.
func fault(err error) seen {
	if err == nil {
		return seen{"returned": true}
	}
	out := seen{"class": fmt.Sprintf("%T", err), "message": err.Error()}
	var known *anthropic.Error
	if errors.As(err, &known) {
		out["status"], out["type"], out["request_id"] = known.StatusCode, known.Type(), known.RequestID
	}
	return out
}
