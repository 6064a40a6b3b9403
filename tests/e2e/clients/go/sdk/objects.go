package main

// Batches and files: what stays with the account that made it.

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/anthropics/anthropic-sdk-go/v2/option"
)

func batches() seen {
	batches := client.Messages.Batches
	item := anthropic.MessageBatchNewParamsRequestParams{Model: model, MaxTokens: 64, Messages: hello}
	requests := anthropic.MessageBatchNewParams{}
	for _, name := range []string{"one", "two", "three"} {
		requests.Requests = append(requests.Requests, anthropic.MessageBatchNewParamsRequest{CustomID: name, Params: item})
	}
	created, err := batches.New(ctx, requests)
	must(err)
	other, err := batches.New(ctx, requests)
	must(err)
	cancelled, err := batches.Cancel(ctx, other.ID, anthropic.MessageBatchCancelParams{})
	must(err)
	ended := waitFor(created.ID)
	waitFor(other.ID)

	results := seen{}
	lines := batches.ResultsStreaming(ctx, created.ID, anthropic.MessageBatchResultsParams{}) // makes the URL itself
	for lines.Next() {
		line := lines.Current()
		results[line.CustomID] = answer(&line.Result.Message)
	}
	must(lines.Err())

	listed := false
	pages := batches.ListAutoPaging(ctx, anthropic.MessageBatchListParams{Limit: anthropic.Int(1)})
	for pages.Next() {
		listed = listed || pages.Current().ID == created.ID
	}
	must(pages.Err())

	deleted, err := batches.Delete(ctx, other.ID, anthropic.MessageBatchDeleteParams{})
	must(err)
	_, gone := batches.Get(ctx, other.ID, anthropic.MessageBatchGetParams{})
	left, err := batches.Get(ctx, created.ID, anthropic.MessageBatchGetParams{})
	must(err)
	return seen{
		"created": created.ProcessingStatus, "cancelled": cancelled.ProcessingStatus, "ended": ended.ProcessingStatus,
		"succeeded": ended.RequestCounts.Succeeded, "results_url": ended.ResultsURL, "results": results,
		"listed": listed, "deleted": deleted.Type, "gone": fault(gone), "left": left.ID == created.ID,
	}
}

func waitFor(id string) *anthropic.MessageBatch {
	for range 300 {
		batch, err := client.Messages.Batches.Get(ctx, id, anthropic.MessageBatchGetParams{})
		must(err)
		if batch.ProcessingStatus == "ended" {
			return batch
		}
		time.Sleep(100 * time.Millisecond)
	}
	panic(id + " does not end")
}

func files() seen {
	content := strings.Repeat("The word of the day is heliotrope.\n", 3)
	made := []*anthropic.FileMetadata{}
	for _, name := range []string{"day.txt", "night.txt"} {
		file := anthropic.File(strings.NewReader(content), name, "text/plain")
		uploaded, err := client.Files.Upload(ctx, anthropic.FileUploadParams{File: file})
		must(err)
		made = append(made, uploaded)
	}
	shown := func(file *anthropic.FileMetadata) seen {
		return seen{"name": file.Filename, "size": file.SizeBytes, "mime": file.MimeType}
	}
	id := made[0].ID

	var head *http.Response
	document := anthropic.NewDocumentBlock(anthropic.FileDocumentSourceParam{FileID: id})
	question := []anthropic.MessageParam{anthropic.NewUserMessage(document, anthropic.NewTextBlock("Which word?"))}
	message, err := client.Messages.New(
		ctx, anthropic.MessageNewParams{Model: model, MaxTokens: 64, Messages: question}, option.WithResponseInto(&head))
	must(err)
	used := answer(message)
	used["route"] = head.Header.Get("x-gateway-route")

	found := map[string]bool{}
	pages := client.Files.ListAutoPaging(ctx, anthropic.FileListParams{Limit: anthropic.Int(1)})
	for pages.Next() {
		found[pages.Current().ID] = true
	}
	must(pages.Err())
	metadata, err := client.Files.GetMetadata(ctx, id, anthropic.FileGetMetadataParams{})
	must(err)
	kept := downloaded(id)

	deleted := []any{}
	for _, each := range made {
		answer, err := client.Files.Delete(ctx, each.ID, anthropic.FileDeleteParams{})
		must(err)
		deleted = append(deleted, answer.Type)
	}
	_, gone := client.Files.GetMetadata(ctx, id, anthropic.FileGetMetadataParams{})
	_, goneContent := client.Files.Download(ctx, id, anthropic.FileDownloadParams{})
	return seen{
		"uploaded": shown(made[0]), "size": len(content), "used": used, "metadata": shown(metadata), "downloaded": kept,
		"listed": found[made[0].ID] && found[made[1].ID], "deleted": deleted,
		"gone": fault(gone), "gone_content": fault(goneContent),
	}
}

// downloaded is the content; the API gives back what tools have made, and refuses what was uploaded.
func downloaded(id string) seen {
	response, err := client.Files.Download(ctx, id, anthropic.FileDownloadParams{})
	var refused *anthropic.Error
	if errors.As(err, &refused) && refused.StatusCode == 400 {
		return seen{"refused": refused.StatusCode}
	}
	must(err)
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	must(err)
	return seen{"text": string(content)}
}
