#!/bin/sh

curl "$BASE_URL"/v1/messages \
	-H "Content-Type: application/json" \
	-H "Accept: application/json" \
	-H "x-api-key: $API_KEY" \
	-d "{
	\"model\": \"claude-haiku-4-5-20251001\",
	\"max_tokens\": 4096,
	\"system\": [{
		\"type\": \"text\",
		\"text\": \"You are a friendly AI assistant\"
	}],
	\"messages\": [{
		\"role\": \"user\",
		\"content\": [{
			\"type\": \"text\",
			\"text\": \"Hello, please give me an introduction to quantum mechanics\"
		}]
	}]
}"
