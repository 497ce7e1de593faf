"""Models: tokens in, predictions out.

* Any model: ``interface``, ``load``, ``locate``, ``hub``, ``devices``, ``placement``,
  ``weights_identity``, ``_token_rows``.
* Models of transformers: ``huggingface``, ``from_transformers``, ``adapters``, ``prequantized``,
  ``dequantization``, ``quiet``, ``_tokenizers``, ``_sentence_piece_files``, ``_config_checks``,
  ``_implementations``, ``_known_kinds``, ``_wrappers``, ``_loading_errors``, ``_loading_report``.
* What is tried before a text is read: ``batch_probe``, ``_probes``, ``_context``,
  ``_known_rows``, ``length_scaling``.
* Models read layer by layer: ``streamed``, ``load_streamed``, ``stream_plan``, ``layer_probe``,
  ``layer_stream``, ``hidden_states``, ``streamed_text``, ``streamed_weights``, ``stored_tensors``.
* GGUF files: ``gguf``, ``gguf_file``, ``gguf_parts``, ``gguf_tokenizer``, ``gguf_pretokenizers``,
  ``gguf_sentence_pieces``, ``gguf_token_types``; in transformers: ``gguf_in_transformers``,
  ``gguf_config``, ``gguf_rope``; in llama.cpp: ``llama_cpp``, ``llama_cpp_options``,
  ``gguf_asserts``, ``_llama_cpp_library``, ``_llama_cpp_placement``, ``_llama_cpp_rope``,
  ``_llama_cpp_tokenizer``, ``_llama_cpp_errors``.
* Quantisation: ``quantization`` (schemes), ``weight_matrices``, ``quantized`` (``MODEL@SCHEME``),
  ``quantise``, ``quantized_folder``.
* Our own runs: ``train``, ``training_plan``, ``_training_device``, ``_training_result``,
  ``mini_gpt``.
* n-gram models: ``kneser_ney``, ``ngram``, ``ngram_baseline``, ``_ngram_tables``,
  ``_ngram_scores``.
"""
