#!/usr/bin/env python3

import os

from anthropic import Anthropic

def main():
    api_key = os.environ["API_KEY"]

    client = Anthropic(
        api_key=api_key,
        base_url=os.environ["BASE_URL"]
    )

    response = client.messages.create(
        model="claude-haiku-4-5-20251001",
        max_tokens=4096,
        system=[{
            "type": "text",
            "text": "You are a friendly AI assistant"
        }],
        messages=[{
            "role": "user",
            "content": "Hello, please give me an introduction to quantum mechanics"
        }]
    )

    for block in response.content:
        if block.type == "text":
            print("💬 Assistant reply:")
            print(block.text)

    print("\n📊 Token usage:")
    print(f"  - Input tokens: {response.usage.input_tokens}")
    print(f"  - Output tokens: {response.usage.output_tokens}")

if __name__ == "__main__":
    main()
