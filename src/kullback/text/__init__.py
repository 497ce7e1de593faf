"""Documents, tokenizers, byte spans, protocols, windows and fingerprints.

* Files: ``inputs``, ``formats``, ``rows``, ``documents``, ``corpus`` (one piece after another).
* Tokenizers: ``tokenizer``, ``tokenizer_file``, ``tokenizer_training``, ``special_tokens``,
  ``special_spellings``, ``byte_spans``, ``lost_text`` (by normalisers).
* Encoding: of documents ``encoded_documents``, ``stored_encodings``; of a corpus
  ``encoded_corpus``, ``piece_encoders``, ``word_table`` (C), ``encoding_worker``.
* What is scored: ``protocol``, ``plan``, ``windows``, ``fingerprint``.
"""
