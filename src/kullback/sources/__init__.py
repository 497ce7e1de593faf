"""Sources: languages that know their own entropy."""
