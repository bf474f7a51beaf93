"""What a tuned role is given: system prompt, tools, actions, its command allow-list and its rules."""
