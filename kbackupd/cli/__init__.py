"""The command line: parse, call, print. One module per verb, no logic."""
