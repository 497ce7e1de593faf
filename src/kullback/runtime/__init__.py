"""Files, locks, threads, process groups, memory, fast kernels: what all other packages may use.

* What users name: ``inputs``, ``outputs``, ``contents``, ``ranges``, ``byte_sizes``, ``decoding``.
* What they are told: ``progress``, ``wording``, ``escaping``.
* Files: ``files`` (atomic writing), ``locks``, ``temporary``, ``columns``, ``arrow_arrays``.
* What is kept between runs: ``interrupted``, ``remembered``; signals: ``interruption``.
* Threads and processes: ``threads``, ``background``, ``turns``, ``scopes``, ``workers``, ``ranks``,
  ``gloo``; items that are made when they are read: ``sequences``.
* Memory: ``memory``, ``free_memory``, ``control_groups``, ``limits``, ``weights``, ``transfers``.
* Fast layers of a model: ``fast_layers``, ``fast_linear``, ``fast_attention``, ``torch_functions``.
* Kernels: ``processor``, ``bfloat16_products``, ``mkl_products``, ``compiled_library`` (C).
* The time that a command takes to start: ``imports``.
"""
