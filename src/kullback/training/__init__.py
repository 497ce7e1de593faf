"""Training of the mini-GPT: data, model, optimisers, loop, run folder and sampling."""
