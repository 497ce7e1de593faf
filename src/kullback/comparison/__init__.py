"""Two models or more on the same text.

* `kullback.compare`: ``compare`` chooses by the ``kinds`` of the operands, ``request`` has what was
  asked for.
* Models and exact recordings: ``models``, ``operands``, ``token_agreement``; the reference, read
  once: ``kept_reference``, ``kept_predictions``, ``window_rows``; the rows of a candidate:
  ``divergence_columns``, ``kept_pass``.
* What is said of them: ``measures``, ``detail``, ``ranking``, ``noise_floor``, ``sensitivity``.
* What is on disk: ``recordings``, ``row_pairs``, ``token_records``, ``stored``; files of llama.cpp:
  ``logits_files``, ``logits_tokens``, ``llama_cpp``.
* Tokenizers that differ: ``by_bytes``, ``byte_boundaries``.
"""
