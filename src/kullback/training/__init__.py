"""The mini-GPT and its training loop."""
