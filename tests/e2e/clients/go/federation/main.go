// A workload with a token file of its own and the Go SDK: first by environment alone, then with a token that is read for
// each request. After each call it waits for a line: meanwhile the file is rotated.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/anthropics/anthropic-sdk-go/v2/option"
)

var input = bufio.NewReader(os.Stdin)

func call(client anthropic.Client, options ...option.RequestOption) {
	hello := []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("Hello"))}
	params := anthropic.MessageNewParams{Model: "claude-haiku-4-5", MaxTokens: 64, Messages: hello}
	answer, err := client.Messages.New(context.Background(), params, options...)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("{\"stop_reason\": %q}\n", answer.StopReason)
	input.ReadString('\n')
}

func ownToken() option.RequestOption {
	text, err := os.ReadFile(os.Getenv("ANTHROPIC_IDENTITY_TOKEN_FILE"))
	if err != nil {
		panic(err)
	}
	return option.WithAuthToken(strings.TrimSpace(string(text)))
}

func main() {
	federated := anthropic.NewClient(option.WithMaxRetries(1))
	call(federated)
	call(federated)
	direct := anthropic.NewClient(option.WithoutEnvironmentDefaults(), option.WithBaseURL(os.Getenv("ANTHROPIC_BASE_URL")))
	call(direct, ownToken())
	call(direct, ownToken())
}
