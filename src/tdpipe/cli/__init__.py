"""The tdpipe command, one module a subcommand."""
