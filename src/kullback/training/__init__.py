"""Training of the mini-GPT: data, model, optimisers, loop, run folder and sampling.

Begin with ``loop``.

* A run: ``config``, ``sizes``, ``loop``, ``steps``, ``state``, ``initial_state``, ``metrics``,
  ``progress``, ``loggers``, ``interruption``, ``probe``, ``memory``, ``out_of_memory``.
* Its data: ``batches`` (the interface), ``batches_ahead``; of a source ``sentence_batches``; of a
  text ``prepare_text``, ``text_splits``, ``text_shards``, ``text_data``, ``text_batches``,
  ``shared_tokens``.
* Its folder: ``run_folder``, ``new_run``, ``lock``, ``description``, ``checkpoint``,
  ``sharded_checkpoint``, ``stored_state``.
* The model: ``gpt``, ``gpt_config``, ``dropout``, ``loss``, ``linear_cross_entropy``, ``sampling``;
  its arithmetic: ``arithmetic``, ``compilation``.
* A block, in three ways with the same result: ``block_functions`` with ``packed_attention`` (our
  autograd functions), ``native_block`` with ``block_library`` (C), ``torch_block`` (accelerators).
* Optimisers: ``muon``, ``muon_library`` (C), ``sharded_muon``, ``optimisers``.
* Several processes: ``replicas``, ``summation``, ``sharding``.
"""
