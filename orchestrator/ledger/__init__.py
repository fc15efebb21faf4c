"""Who spends what: reserve, run, settle, so that what is held and what is spent stay within every budget."""
