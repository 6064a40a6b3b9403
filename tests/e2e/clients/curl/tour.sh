#!/bin/sh
# Every endpoint once, with nothing but curl. Answers go to the folder $OUT: NAME is the body, NAME.head the head(s);
# one line of JSON says which status each had.
set -eu

body='{"model": "claude-haiku-4-5", "max_tokens": 64, "messages": [{"role": "user", "content": "Hello"}]}'
stream='{"model": "claude-haiku-4-5", "max_tokens": 64, "stream": true, "messages": [{"role": "user", "content": "Hello"}]}'
question='{"model": "claude-haiku-4-5", "messages": [{"role": "user", "content": "Hello"}]}'
version='anthropic-version: 2023-06-01'
json='content-type: application/json'
said=''

# ask NAME PATH [curl's options]: as a caller with the gateway's key.
ask() {
	name=$1 path=$2
	shift 2
	plain "$name" "$path" -H "x-api-key: $API_KEY" -H "$version" "$@"
}

# plain NAME PATH [curl's options]: as nobody.
plain() {
	name=$1 path=$2
	shift 2
	status=$(curl -sS --max-time 60 -o "$OUT/$name" -D "$OUT/$name.head" -w '%{http_code}' "$@" "$BASE_URL$path")
	said="$said${said:+, }\"$name\": $status"
}

# id NAME: the id in an answer.
id() {
	sed -n 's/.*"id": *"\([^"]*\)".*/\1/p' "$OUT/$1" | head -n 1
}

# -- Messages, in all the ways that curl can send a body --------------------------------------------------------------

ask message /v1/messages -H "$json" -d "$body"
plain bearer /v1/messages -H "authorization: Bearer $API_KEY" -H "$version" -H "$json" -d "$body"
plain no_version /v1/messages -H "x-api-key: $API_KEY" -H "$json" -d "$body"
ask query '/v1/messages?beta=true' -H "$json" -d "$body"
ask stream /v1/messages -N -H "$json" -d "$stream"
ask http10 /v1/messages --http1.0 -H "$json" -d "$body"
ask http10_stream /v1/messages --http1.0 -N -H "$json" -d "$stream"
ask expect /v1/messages -H 'expect: 100-continue' --expect100-timeout 30 -H "$json" -d "$body"
printf '%s' "$body" >"$OUT/body.json"
ask chunked /v1/messages -H 'transfer-encoding: chunked' -H "$json" --data-binary "@$OUT/body.json"
gzip -c "$OUT/body.json" >"$OUT/body.gz"
ask gzip /v1/messages -H 'content-encoding: gzip' -H "$json" --data-binary "@$OUT/body.gz"
ask compressed /v1/messages --compressed -H "$json" -d "$body"
ask count_tokens /v1/messages/count_tokens -H "$json" -d "$question"
plain chat /v1/chat/completions -H "authorization: Bearer $API_KEY" -H "$json" -d "$body"

# -- Models -----------------------------------------------------------------------------------------------------------

ask models '/v1/models?limit=2'
ask model /v1/models/claude-haiku-4-5
ask model_unknown /v1/models/claude-none-1

# -- Batches ----------------------------------------------------------------------------------------------------------

ask batch /v1/messages/batches -H "$json" -d "{\"requests\": [{\"custom_id\": \"one\", \"params\": $body}]}"
batch=$(id batch)
ask batch_now "/v1/messages/batches/$batch"
tries=0
while [ $tries -lt 100 ] && ! grep -q '"processing_status": *"ended"' "$OUT/batch_now"; do
	tries=$((tries + 1))
	sleep 0.1
	curl -sS -o "$OUT/batch_now" -H "x-api-key: $API_KEY" -H "$version" "$BASE_URL/v1/messages/batches/$batch"
done
ask batch_list '/v1/messages/batches?limit=100'
ask batch_results "/v1/messages/batches/$batch/results"
ask batch_cancel "/v1/messages/batches/$batch/cancel" -X POST
ask batch_delete "/v1/messages/batches/$batch" -X DELETE
ask batch_gone "/v1/messages/batches/$batch"
ask batch_unknown /v1/messages/batches/msgbatch_01AAAAAAAAAAAAAAAAAAAAAA

# -- Files ------------------------------------------------------------------------------------------------------------

printf 'The word of the day is heliotrope.\n' >"$OUT/day.txt"
ask file /v1/files -F "file=@$OUT/day.txt;type=text/plain"
file=$(id file)
ask file_metadata "/v1/files/$file"
ask file_content "/v1/files/$file/content"
ask file_list '/v1/files?limit=100'
source="{\"type\": \"document\", \"source\": {\"type\": \"file\", \"file_id\": \"$file\"}}"
ask file_message /v1/messages -H "$json" -d "{\"model\": \"claude-haiku-4-5\", \"max_tokens\": 64,
	\"messages\": [{\"role\": \"user\", \"content\": [$source, {\"type\": \"text\", \"text\": \"Which word?\"}]}]}"
ask file_delete "/v1/files/$file" -X DELETE
ask file_gone "/v1/files/$file"
ask file_unknown /v1/files/file_01AAAAAAAAAAAAAAAAAAAAAA

# -- What is refused --------------------------------------------------------------------------------------------------

plain no_key /v1/messages -H "$json" -d "$body"
plain wrong_key /v1/models -H 'x-api-key: sk-wrong'
ask no_json /v1/messages -H "$json" -d 'Hello'
ask no_gzip /v1/messages -H 'content-encoding: gzip' -H "$json" -d "$body"
ask no_method /v1/messages
ask no_path /v2/messages
ask admin /v1/organizations/me
ask dots /v1/messages/../files --path-as-is

printf '{%s}\n' "$said"
