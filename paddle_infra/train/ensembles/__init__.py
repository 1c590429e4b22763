"""Several models made one."""
