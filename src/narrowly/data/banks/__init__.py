"""Hold the banks of questions that Narrowly's authors wrote, and their loaders."""
