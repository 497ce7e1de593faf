"""`kullback scaling`: a ladder of training runs, and the law of its losses."""
