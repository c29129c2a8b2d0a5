"""Values only, standard library only: what the rest of kbackupd talks about."""
