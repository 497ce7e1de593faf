"""One model on a text or a source.

* `kullback.evaluate`, `kullback.record`, `kullback.evaluate_source`: ``evaluate``, ``record``,
  ``evaluate_source``, with their ``options`` and ``memory_remedies``.
* The text of a pass: ``tokenized_text``, ``text_ahead``, ``batches``, ``batch_limit``.
* The pass, windows in and one row a token out: ``passes``, ``predictors``, ``batched_rows``,
  ``row_columns``, ``agreement`` (of processes).
* Its rows, kept: ``recorded_pass``, ``kept_rows``, ``record_columns``, ``token_records``,
  ``token_records_writer``, ``token_records_checks``, ``record_llama_cpp``.
* What is said of them: ``on_text``, ``measures``, ``passages``, ``temperature``, ``numeric_type``.
* On a source: ``on_source``, ``source_corpora``, ``sentences``, ``source_sums``, ``minimal_pairs``.
"""
